"""Specs and adapters: what can be named, and the message for what cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from conformance.candidate import Spec, parse_spec
from conformance.cells.fault import Fault
from conformance.discover import data_folder, find_adapters, load_faults, read_adapter, variants_of
from conformance.errors import SpecError
from conformance.faults import CATALOGUE
from conformance.plan import beside, candidates_for

GOOD = """\
[adapter]
name = "mine"
title = "Mine"
distribution = "mine"

[variants.one]
title = "one"
cells = ["gru"]
dtypes = ["float32"]
paths = { given = "loop" }
"""


def folder_with(tmp_path: Path, manifest: str | None, *, code: bool = True) -> Path:
    """An adapter folder with this manifest."""
    if manifest is not None:
        (tmp_path / "adapter.toml").write_text(manifest)
    if code:
        (tmp_path / "adapter.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("mlx", Spec(adapter="mlx")),
        ("mlx:none", Spec(adapter="mlx", variant="none")),
        ("mlx:none==0.31.1", Spec(adapter="mlx", variant="none", version="0.31.1")),
        ("flax-nnx:lax-scan==0.12.8", Spec(adapter="flax-nnx", variant="lax-scan", version="0.12.8")),
        ("mlx==0.31.1", Spec(adapter="mlx", version="0.31.1")),
        ("mlx:none@/", Spec(adapter="mlx", variant="none", path=Path("/"))),
    ],
)
def test_specs_are_parsed_and_printed(text: str, spec: Spec) -> None:
    """Every form of the language is read, and printed as it was written."""
    assert parse_spec(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize("text", ["", ":none", "mlx:", "mlx:none=0.31.1", "mlx none", "mlx:none==", "mlx:none==x.y"])
def test_malformed_specs_are_refused(text: str) -> None:
    """What does not follow the language is refused, showing what was typed."""
    with pytest.raises(SpecError) as caught:
        parse_spec(text)
    assert "wanted" in str(caught.value)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A typing mistake in a path is found before anything runs."""
    with pytest.raises(SpecError, match="does not exist"):
        parse_spec(f"mlx:none@{tmp_path / 'no'}")


def test_the_shipped_adapters_are_found() -> None:
    """The adapters of the first release are there, with the default candidates."""
    names = {candidate.name for candidate in candidates_for(find_adapters(), [])}
    assert names == {
        "mlx:none", "mlx:zeros", "torch:layer", "torch:cell", "flax-linen:rnn", "flax-nnx:lax-scan", "numpy:float32",
    }  # fmt: skip


def test_a_third_adapter_is_found_by_path(tmp_path: Path) -> None:
    """--adapter adds a folder; its variants can be named."""
    adapters = find_adapters([folder_with(tmp_path, GOOD)])
    ((adapter, variant),) = variants_of(adapters, parse_spec("mine:one"))
    assert (adapter.folder, variant.paths) == (tmp_path, {"given": ("loop",)})


def test_features_layers_and_padding_are_read(tmp_path: Path) -> None:
    """What a variant offers beyond plain runs, what its padding is, and how its paths name each cell's layer."""
    manifest = GOOD.replace('["gru"]', '["gru", "elman"]').replace('"loop"', '"{layer}(x, h)"')
    manifest += 'features = ["lengths", "gradients"]\npadding = "free"\nunbatched = false\n'
    manifest += '[variants.one.layers]\ngru = "nn.GRU"\n'
    manifest += '[[variants.one.unsupported]]\nwhat = "layers"\nowner = "upstream"\nreason = "not offered"\n'
    variant = read_adapter(folder_with(tmp_path, manifest)).variants["one"]
    assert variant.padding == "free"
    asked = ("lengths", "gradients", "reverse", "unbatched", "layers")
    assert [feature for feature in asked if variant.offers(feature)] == ["lengths", "gradients"]
    assert variant.unsupported["layers"].owner == "upstream"
    assert variant.attestable("gru", "given") == ("nn.GRU(x, h)",)
    assert variant.attestable("gru", "given", ("lengths", "gradients")) == ("nn.GRU(x, h) +lengths +gradients",)
    plain = variant.attestable("elman", "given")
    assert plain == ("elman(x, h)",), "a layer without a name of its own goes by that of its cell"


def test_a_variant_is_like_another(tmp_path: Path) -> None:
    """What a variant does not say itself it takes from the one it is like, inner tables key by key."""
    manifest = GOOD.replace('paths = { given = "loop" }', 'paths = { given = "loop", zeros = ["loop", "fast loop"] }')
    manifest += '[variants.two]\nlike = "three"\ntitle = "Two"\n[variants.two.paths]\ngiven = "other loop"\n'
    manifest += '[variants.three]\nlike = "one"\ndefault = false\nenvironment = { MY_SWITCH = "on" }\n'
    one, two, three = (read_adapter(folder_with(tmp_path, manifest)).variants[n] for n in ("one", "two", "three"))
    assert two.paths == {"given": ("other loop",), "zeros": ("loop", "fast loop")}
    assert (two.title, two.cells, two.environment) == ("Two", one.cells, {"MY_SWITCH": "on"})
    assert (three.title, three.paths, three.default) == (one.title, one.paths, False)


def test_what_is_said_of_other_cells_is_not_inherited(tmp_path: Path) -> None:
    """A variant with fewer cells takes over their layers and missing parameters only; what it says itself stays."""
    manifest = GOOD.replace('["gru"]', '["gru", "lstm", "elman"]')
    manifest += 'layers = { gru = "GRU", lstm = "LSTM", elman = "RNN" }\n'
    for cell in ("gru", "lstm"):
        manifest += f'[[variants.one.missing]]\ncell = "{cell}"\nparameters = ["b"]\nowner = "never"\n'
        manifest += 'reason = "none"\nlink = ""\n'
    manifest += '[variants.two]\nlike = "one"\ncells = ["lstm", "elman"]\nlayers = { lstm = "OtherLSTM" }\n'
    manifest += '[variants.three]\nlike = "two"\ncells = ["gru"]\nlayers = { lstm = "a slip" }\n'
    one, two, three = (read_adapter(folder_with(tmp_path, manifest)).variants[n] for n in ("one", "two", "three"))
    assert (one.missing.keys(), len(one.layers)) == ({"gru", "lstm"}, 3)
    assert (two.missing.keys(), two.layers) == ({"lstm"}, {"lstm": "OtherLSTM", "elman": "RNN"})
    assert (three.missing.keys(), three.layers) == (set(), {"lstm": "a slip"})


def test_modules_of_a_shipped_adapter_may_be_shared(tmp_path: Path) -> None:
    """An adapter that is named by path finds them, wherever it is; without the word there are none."""
    sharing = GOOD.replace("[adapter]\n", '[adapter]\nshares = ["jax"]\n')
    assert read_adapter(folder_with(tmp_path, sharing)).shares == (data_folder("adapters") / "jax",)
    assert read_adapter(folder_with(tmp_path, GOOD)).shares == ()


def test_a_path_may_have_alternatives(tmp_path: Path) -> None:
    """An observation must attest one of them, each with the features of its case."""
    manifest = GOOD.replace('"loop"', '["{layer}, fused", "{layer}, eager"]')
    variant = read_adapter(folder_with(tmp_path, manifest)).variants["one"]
    assert variant.attestable("gru", "given", ("gradients",)) == ("gru, fused +gradients", "gru, eager +gradients")


def test_an_adapter_may_not_take_anothers_name(tmp_path: Path) -> None:
    """A folder named like a shipped adapter does not replace it silently."""
    with pytest.raises(SpecError, match="two adapters have one name"):
        find_adapters([folder_with(tmp_path, GOOD.replace('"mine"', '"mlx"'))])


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "cannot read"),
        ("[adapter", "not TOML"),
        (GOOD.replace('title = "Mine"\n', ""), "title"),
        (GOOD.replace('"float32"', '"float8"'), "float8"),
        (GOOD + 'colour = "red"\n', "colour"),
        (GOOD.replace('["gru"]', '["grue"]'), "unknown cell"),
        (GOOD.replace("{ given", "{ borrowed"), "borrowed"),
        (GOOD + 'features = ["flight"]\n', "flight"),
        (GOOD + 'padding = "ones"\n', "ones"),
        (GOOD + '[[variants.one.unsupported]]\nwhat = "flight"\nowner = "ours"\nreason = "no wings"\n', "flight"),
        (GOOD.replace('paths = { given = "loop" }', "paths = {}"), "paths"),
        (GOOD.replace('"loop"', "[]"), "paths"),
        (GOOD + 'environment = { path = "here" }\n', "environment"),
        (GOOD.replace("[adapter]\n", '[adapter]\nshares = ["cray"]\n'), "one that is not shipped"),
        (GOOD.replace("[adapter]\n", '[adapter]\nshares = ["../jax"]\n'), "shares"),
        (GOOD + 'evaluation = "backwards"\n', "backwards"),
        (GOOD.replace('["gru"]', '["gru_v1", "lstm"]') + 'evaluation = "complement"\n', "complement"),
        (GOOD + '[variants.two]\nlike = "none"\n', "like no other"),
        (GOOD + '[variants.two]\nlike = "three"\n[variants.three]\nlike = "two"\n', "like no other"),
        ('[adapter]\nname = "a"\ntitle = "a"\ndistribution = "a"\n[variants]\n', "variants"),
    ],
)
def test_malformed_manifests_are_refused(tmp_path: Path, manifest: str | None, message: str) -> None:
    """A manifest's mistake is named, with its file."""
    with pytest.raises(SpecError, match=message) as caught:
        read_adapter(folder_with(tmp_path, manifest))
    assert "adapter.toml" in str(caught.value)


def test_a_folder_without_code_is_refused(tmp_path: Path) -> None:
    """A manifest alone is no adapter."""
    with pytest.raises(SpecError, match=r"no adapter\.py"):
        read_adapter(folder_with(tmp_path, GOOD, code=False))


def test_malformed_requirements_are_refused(tmp_path: Path) -> None:
    """A requirements line that pip could not read is found when the adapter is."""
    folder = folder_with(tmp_path, GOOD)
    (folder / "requirements.txt").write_text("# pinned\nmlx==0.32.4\nnot a requirement !\n")
    with pytest.raises(SpecError, match="Not a requirement"):
        read_adapter(folder)


@pytest.mark.parametrize(("text", "message"), [("keras:layer", "unknown adapter"), ("mlx:nine", "no such variant")])
def test_unknown_names_are_refused_with_the_known_ones(text: str, message: str) -> None:
    """What was wanted stands in the message."""
    with pytest.raises(SpecError, match=message) as caught:
        variants_of(find_adapters(), parse_spec(text))
    assert "mlx" in str(caught.value)


def test_a_candidate_named_twice_is_refused() -> None:
    """The same candidate twice would be compared with itself in the record."""
    with pytest.raises(SpecError, match="named twice"):
        candidates_for(find_adapters(), [parse_spec("mlx"), parse_spec("mlx:none")])


def test_the_harness_own_dependencies_are_not_beside_it() -> None:
    """NumPy is always installed: it is not what a bare run of the suite tests."""
    assert "numpy" not in {spec.adapter for spec in beside(find_adapters())}


# Faults of third parties


class Point:
    """An entry point that gives these pairs."""

    name = "theirs"

    def __init__(self, *pairs: object) -> None:
        self.pairs = pairs

    def load(self) -> Callable[[], list[object]]:
        """A function without arguments, as the group wants it."""
        return lambda: list(self.pairs)


HALF = Fault(name="half", statement="half of b_hn", parameters=lambda p: {"b_hn": p["b_hn"] / 2})


def offered(monkeypatch: pytest.MonkeyPatch, *pairs: object) -> None:
    """Load the faults of one distribution into a catalogue of its own."""
    monkeypatch.setattr("conformance.discover.offered", lambda _: [Point(*pairs)])
    monkeypatch.setitem(CATALOGUE, "gru", dict(CATALOGUE["gru"]))
    load_faults()


def test_faults_of_installed_distributions_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry point gives is in the catalogue, also when it is loaded twice."""
    offered(monkeypatch, ("gru", HALF))
    load_faults()
    assert CATALOGUE["gru"]["half"] is HALF


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("gru", "no fault"), "gives no fault"),
        (("cell", HALF), "no fault catalogue"),
        (("gru", replace(HALF, name="swap_rz")), "registered already"),
    ],
    ids=["no fault", "unknown cell", "name taken"],
)
def test_a_bad_fault_is_refused(monkeypatch: pytest.MonkeyPatch, pair: object, message: str) -> None:
    """One clear message for each mistake."""
    with pytest.raises(SpecError, match=message):
        offered(monkeypatch, pair)


def test_a_failing_entry_point_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What third-party code raises is wrapped."""

    class Broken(Point):
        def load(self) -> Callable[[], list[object]]:
            raise ImportError("nothing here")

    monkeypatch.setattr("conformance.discover.offered", lambda _: [Broken()])
    with pytest.raises(SpecError, match="cannot load faults"):
        load_faults()
