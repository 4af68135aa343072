"""The benchmarks: results are compared before a time is printed, memory comes from a process of its own."""

import dataclasses
import functools
import json
import shutil

import pytest
import torch
from PIL import Image
from rich.console import Console

from wsss_fast import InputError, RunError, bench, cli, ops
from wsss_fast.bench import (
    aamr_loss,
    dense_crf,
    harness,
    inference,
    label_conditioned,
    memory,
    photos,
    pixel_bce,
    pixel_cross_entropy,
    random_walk,
    roofline,
    saliency_loss,
    show,
)
from wsss_fast.bench.suite import Implementation, relative_error

SIZE = (40, 56)
TINY_HEADS = {
    "logits": ("logits", label_conditioned.Head((2, 8, 9, 9), 3)),
    "train": ("train", label_conditioned.Head((2, 8, 9, 9), 3, dilations=(1, 2), backward=True)),
    "unscaled": (
        "unscaled",
        label_conditioned.Head((2, 8, 9, 9), 3, (1,), kernel=1, scaled=False, backward=True),
    ),
    "activation": ("activation", label_conditioned.Head((2, 8, 9, 9), 3, size=(20, 20))),
}
TINY_LOSSES = {
    key: (text, dataclasses.replace(loss, logits=(2, 5, 6, 6), labels=(17, 17)))
    for key, (text, loss) in pixel_cross_entropy.ROWS.items()
}
TINY_BCE = {
    key: (text, dataclasses.replace(loss, logits=(2, 5, 6, 6), labels=(17, 17)))
    for key, (text, loss) in pixel_bce.ROWS.items()
}
TINY_SALIENCY = {"voc": ("tiny", saliency_loss.Maps((2, 6, 9, 9), (20, 20), 0.5))}
TINY_AAMR = {"seg41": ("tiny", aamr_loss.Maps((3, 5, 21, 21), (40, 40)))}
TINY_NETS = {"eps_quick": ("EPS, tiny", inference.Pictures("eps", (32, 48), (1.0,)))}
TINY_WALKS = {key: (key, random_walk.Grid((3, 13, 9), dense=True)) for key in ("tiny3", "irn3")}


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    """Copies and evictions of a size that takes no time."""
    monkeypatch.setattr(roofline, "_COPIED", 1 << 16)
    monkeypatch.setattr(harness, "_EVICTING", 1 << 16)


@pytest.fixture
def tiny_rows(monkeypatch):
    monkeypatch.setattr(label_conditioned, "ROWS", TINY_HEADS)
    monkeypatch.setattr(pixel_cross_entropy, "ROWS", TINY_LOSSES)
    monkeypatch.setattr(pixel_bce, "ROWS", TINY_BCE)
    monkeypatch.setattr(saliency_loss, "ROWS", TINY_SALIENCY)
    monkeypatch.setattr(aamr_loss, "ROWS", TINY_AAMR)
    monkeypatch.setattr(random_walk, "ROWS", TINY_WALKS)
    monkeypatch.setattr(inference, "ROWS", TINY_NETS)


@pytest.fixture
def slightly_wrong(monkeypatch):
    """dense_crf, but Q of every image's first pixel is off by 0.01."""
    right = ops.dense_crf

    def wrong(image, unary, **terms):
        q = right(image, unary, **terms).clone()
        q[..., 0, 0] += 0.01
        return q

    monkeypatch.setattr(ops, "dense_crf", wrong)


def measure(out, suite, **options):
    return harness.run_suite(
        suite, out, **{"device": "cpu", "threads": 1, "repeats": 2, "memory": False, **options}
    )


def printed(report):
    """What the command shows on 80 columns."""
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        for part in show.parts(report):
            console.print(part, markup=False)
    return capture.get()


# ---- the harness -----------------------------------------------------------------------------------------------------


def test_a_wrong_answer_has_no_time(tmp_path, slightly_wrong):
    report = measure(tmp_path, dense_crf.suite(size=SIZE), rows=("3", "pair"), quick=True)
    for row in report.rows:
        assert "ours" not in row.times and row.ratio() is None and row.rate() is None
        assert "max dQ is 0.01" in row.problems["ours"] and row.times[row.baseline]
    wrong = report.wrong()
    assert len(wrong) == 2 and wrong[0].startswith("dense_crf, 3 labels: disagrees with")
    assert printed(report).count("WRONG") == 2 and "3 labels: ours: disagrees with" in printed(
        report
    )


def test_every_input_is_compared_not_only_the_first(tmp_path, monkeypatch):
    right, calls = ops.dense_crf, []

    def wrong_later(image, unary, **terms):
        calls.append(1)
        return right(image, unary, **terms) + 0.01 * (len(calls) == 3)

    monkeypatch.setattr(ops, "dense_crf", wrong_later)
    report = measure(tmp_path, dense_crf.suite(size=SIZE), rows=("2",), quick=True, repeats=3)
    assert len(report.wrong()) == 1 and len(calls) == 3 and "ours" not in report.rows[0].times


def test_a_nan_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(
        ops, "dense_crf", lambda image, unary, **terms: torch.full_like(unary, torch.nan)
    )
    report = measure(tmp_path, dense_crf.suite(size=SIZE), rows=("2",), quick=True)
    assert "max dQ is nan" in report.wrong()[0]


def test_relative_error():
    want = [torch.tensor([4.0, -2.0]), torch.tensor([0.5])]
    assert relative_error([want[0] + 0.04, want[1]], want) == {"error": pytest.approx(0.01)}
    assert (
        relative_error([want[0], want[1] * torch.nan], want)["error"]
        != relative_error(want, want)["error"]
        == 0
    )
    assert relative_error([want[0], torch.tensor(0.5)], want)["error"] == float(
        "inf"
    )  # shapes differ
    assert relative_error([torch.zeros(1)], [torch.zeros(1)]) == {"error": 0}
    assert relative_error([torch.ones(1)], [torch.zeros(1)])["error"] > 1


def test_ratio_compares_the_inputs_that_both_were_timed_on():
    row = harness.Row("a", "a", "eager", times={"ours": [1.0, 5.0, 5.0], "eager": [8.0]})
    assert row.ratio() == 8.0 and row.seconds("ours") == 5.0


def test_a_contender_that_fails_leaves_the_others(tmp_path):
    suite = dense_crf.suite(size=SIZE)

    def fails(image, unary):
        raise MemoryError("too large\nwith details")

    broken = dataclasses.replace(
        suite,
        implementations=lambda row: {**suite.implementations(row), "other": Implementation(fails)},
    )
    report = measure(tmp_path, broken, rows=("2",), repeats=1)
    (row,) = report.rows
    assert (
        row.problems == {"other": "MemoryError: too large"}
        and row.times["ours"]
        and not report.wrong()
    )
    assert "2 labels: other: MemoryError: too large" in printed(report)


def test_threads_are_as_before_afterwards(tmp_path, monkeypatch):
    before, inside = torch.get_num_threads(), []
    monkeypatch.setattr(
        ops, "dense_crf", lambda *_, **__: inside.append(torch.get_num_threads()) or torch.zeros(1)
    )
    with pytest.raises(RuntimeError):  # shapes that cannot be compared
        measure(tmp_path, dense_crf.suite(size=SIZE), rows=("2",), quick=True, threads=before + 1)
    assert inside == [before + 1] and torch.get_num_threads() == before


def test_bad_input(tmp_path):
    suite = dense_crf.suite(size=SIZE)
    with pytest.raises(InputError, match="no row '7'; there are 2, 3"):
        measure(tmp_path, suite, rows=("7",))
    with pytest.raises(InputError, match="threads=-1"):
        measure(tmp_path, suite, threads=-1)
    with pytest.raises(InputError, match="repeats=0"):
        measure(tmp_path, suite, repeats=0)
    with pytest.raises(InputError, match="size must be at least 1 1, got 0 5"):
        dense_crf.suite(size=(0, 5))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, must be a folder"):
        measure(tmp_path / "file", suite)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_floors():
    """C = A @ B has 2 m k n operations; a copy reads and writes."""
    product = roofline.matmul(64, 32, 16, products=3)
    assert (product.work, product.plain_work, product.unit) == (3 * 65536, 65536, "GFLOP/s")
    assert product.prepare(torch.device("cpu"))().shape == (64, 16)
    copied = roofline.copy(1000)
    assert (copied.work, copied.plain_work, copied.unit) == (1000, 2 * (1 << 16), "GB/s")
    assert copied.plain_rate(torch.device("cpu")) > 0
    row = harness.Row("a", "a", "eager", times={"ours": [0.5]}, roofline={"work": 3.0})
    assert row.rate() == 6.0


@pytest.mark.parametrize("name", bench.BENCHMARKS)
def test_tables_fit_80_columns(name, tmp_path):
    suite = bench.BENCHMARKS[name].suite()
    implementations = [
        *suite.implementations(next(iter(suite.rows))),
        *(["pydensecrf"] if name == "dense_crf" else []),
    ]
    baseline = next(j for j in suite.baselines if j in implementations)
    rows = []
    for key, text in suite.rows.items():
        least = suite.roofline(key)
        fastest = {"GB/s": 4321, "GFLOP/s": 12346}[least.unit]
        best = {"unit": least.unit, "work": 1e4, "plain": least.plain, "plain_rate": fastest}
        rows.append(
            harness.Row(
                key,
                text,
                baseline,
                {c: [20.312] for c in implementations},
                dict.fromkeys(implementations, 1234567890),
                figures={"ours": dict.fromkeys(suite.limits, 2e-5)},
                roofline=best,
            )
        )
    report = harness.Report(
        suite, rows, harness.machine(torch.device("cpu")), [], tmp_path, tmp_path
    )
    for table in (show.times(report), show.memory(report)):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(table)
        lines = capture.get().rstrip("\n").split("\n")
        assert max(map(len, lines)) <= 80 and len(lines) == 3 + len(rows)


# ---- the suites ------------------------------------------------------------------------------------------------------


def test_every_crf_row_agrees_and_is_written(tmp_path):
    report = measure(
        tmp_path,
        dense_crf.suite(setting="eps", unary="soft", size=SIZE),
        repeats=1,
        quick=True,
        rows=tuple(dense_crf.ROWS),
    )
    assert not report.wrong()
    written = json.loads((tmp_path / "dense_crf-eps-soft.json").read_text())
    assert [row["key"] for row in written["rows"]] == list(dense_crf.ROWS)
    for row in written["rows"]:
        assert (
            len(row["times"]["ours"]) == 1 and row["seconds"]["ours"] == row["times"]["ours"][0] > 0
        )
        assert row["ratio"] == pytest.approx(
            row["seconds"][row["baseline"]] / row["seconds"]["ours"]
        )
        assert row["rate"] == pytest.approx(row["roofline"]["work"] / row["seconds"]["ours"])
        assert row["figures"]["ours"]["max dQ"] <= 1e-3
    assert (
        written["threads"] == 1
        and written["load"] >= 0
        and written["cpu"]
        and written["info"]["backend"]
    )
    with Image.open(tmp_path / "dense_crf-eps-soft.png") as plot:
        assert plot.width > 400 and len(plot.convert("RGB").getcolors(1 << 20)) > 10


def test_without_the_peer_the_reference_judges(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_crf, "densecrf", None)
    report = measure(tmp_path, dense_crf.suite(size=SIZE), rows=("3",), quick=True, repeats=1)
    assert report.rows[0].baseline == "eager" and report.columns() == ["ours", "eager"]
    assert "not installed" in report.notes[0] and "not installed" in printed(report)


def test_repeats_use_other_photos_and_labels():
    first, second = (
        dense_crf.problem(dense_crf.ROWS["4of21"][1], which, "hard", *SIZE) for which in (0, 1)
    )
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    shown = first[1].argmin(2).unique()
    assert len(shown) == 4 and shown[0] == 0 and shown[-1] == 20
    images, _ = dense_crf.problem(dense_crf.ROWS["batch8"][1], 0, "soft", *SIZE)
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_without_scikit_image_photos_are_made(monkeypatch):
    photos._originals.cache_clear()
    photos.photos.cache_clear()
    monkeypatch.setattr(photos, "stored", None)
    try:
        assert "4 made textures (scikit-image is not installed)" in dense_crf.suite(size=SIZE).title
        images = photos.batch(0, 40, *SIZE)
        assert (
            images.dtype == torch.uint8 and len({image.numpy().tobytes() for image in images}) == 40
        )
        assert all(image.float().std() > 20 for image in images)
    finally:
        photos._originals.cache_clear()
        photos.photos.cache_clear()


def test_the_least_bytes_of_crf():
    """kernels.md: about 25 MB an iteration of 500x375x21: the energies, and 6 entries of 8 bytes a pixel."""
    pixels = 500 * 375
    assert dense_crf.least_bytes(dense_crf.Problem(21), pixels, True) == 10 * pixels * (21 * 4 + 48)
    assert dense_crf.least_bytes(dense_crf.Problem(21, present=4), pixels, True) == 10 * pixels * (
        5 * 4 + 48
    )
    assert dense_crf.least_bytes(
        dense_crf.Problem(3, sets=2, images=8), pixels, False
    ) == 80 * pixels * (6 * 4 + 24)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_label_conditioned(dtype, tmp_path, tiny_rows):
    report = measure(
        tmp_path, label_conditioned.suite(dtype=dtype), quick=True, rows=tuple(TINY_HEADS)
    )
    assert not report.wrong()
    for row in report.rows:
        assert (
            row.baseline == "eager" and len(row.times["ours"]) == 2 and "compiled" not in row.times
        )
        assert (
            row.figures["ours"]["error"] <= (2e-5 if dtype == "float32" else 4 * 2**-7)
            and row.rate() > 0
        )
    assert report.json.name == (
        "label_conditioned.json" if dtype == "float32" else "label_conditioned-bfloat16.json"
    )


@pytest.mark.parametrize("op", ["label_conditioned_logits", "label_conditioned_activation"])
def test_label_conditioned_a_wrong_answer_has_no_time(op, monkeypatch, tmp_path, tiny_rows):
    right = getattr(ops, op)
    monkeypatch.setattr(ops, op, lambda *args, **options: 1.001 * right(*args, **options))
    row = "logits" if op.endswith("logits") else "activation"
    report = measure(tmp_path, label_conditioned.suite(), quick=True, rows=(row,))
    assert (
        len(report.wrong()) == 1
        and "ours" not in report.rows[0].times
        and report.rows[0].times["eager"]
    )


def test_gradients_are_compared_too(monkeypatch, tmp_path, tiny_rows):
    """A scale whose gradient is lost, while the logits are right."""
    right = ops.label_conditioned_logits
    monkeypatch.setattr(
        ops,
        "label_conditioned_logits",
        lambda f, scale, *rest, **o: right(f, scale.detach() + 0 * scale, *rest, **o),
    )
    report = measure(tmp_path, label_conditioned.suite(), quick=True, rows=("train",))
    assert "error is 1, allowed" in report.wrong()[0]


def test_the_least_products_of_a_head():
    """36 taps of which the four centres are one; a 3x3 kernel of dilation 1 on 2x2 cells reaches 16 times."""
    amn = label_conditioned.least_products(label_conditioned.ROWS["amn4"][1], torch.float32)
    all_cells = 2 * 4 * 21 * 33 * 2048 * 32 * 32
    assert 0.4 * all_cells < amn.work < 0.5 * all_cells
    tiny = label_conditioned.least_products(
        label_conditioned.Head((1, 8, 2, 2), 3, (1,), backward=True), torch.float32
    )
    assert tiny.work == pytest.approx(
        3 * 2 * 3 * 8 * 16, rel=0.15
    )  # cells of a tap are rounded to a whole number
    cam = label_conditioned.least_products(label_conditioned.ROWS["cam"][1], torch.float32)
    assert cam.work == 2 * 16 * 20 * 2048 * 32 * 32


@pytest.mark.parametrize(
    ("module", "key"),
    [*((pixel_cross_entropy, key) for key in TINY_LOSSES), *((pixel_bce, key) for key in TINY_BCE)],
)
def test_pixel_losses_agree_with_torch(module, key, tmp_path, tiny_rows):
    report = measure(tmp_path, module.suite(), quick=True, rows=(key,))
    (row,) = report.rows
    assert not row.problems and {"ours", "eager", "torch"} == set(row.times)
    assert all(figures["error"] <= 2e-5 for figures in row.figures.values())


@pytest.mark.parametrize(
    ("module", "peers"),
    [(saliency_loss, ()), (aamr_loss, ("scipy",)), (random_walk, ("scipy", "dense"))],
    ids=["saliency", "aamr", "walk"],
)
def test_other_ops_agree_with_their_peers(module, peers, tmp_path, tiny_rows):
    pytest.importorskip("scipy")
    report = measure(tmp_path, module.suite(), quick=True)
    for row in report.rows:
        assert not row.problems and {"ours", "eager", *peers} == set(row.times) and row.rate() > 0
        assert (
            row.figures["ours"]["error"] <= 2e-5
        )  # peers that walk in float32 may be off by the suite's limit


@pytest.mark.parametrize(("module", "peer"), [(aamr_loss, "ndimage"), (random_walk, "sparse")])
def test_without_scipy_the_table_says_so(module, peer, tmp_path, monkeypatch, tiny_rows):
    monkeypatch.setattr(module, peer, None)
    report = measure(tmp_path, module.suite(), quick=True, repeats=1)
    assert (
        "scipy" not in report.columns()
        and "scipy is not installed" in report.notes[-1]
        and not report.wrong()
    )


def test_lost_regions_and_steps_are_seen(tmp_path, monkeypatch, tiny_rows):
    """A loss over all pixels, and a walk of one step too few."""
    loss, walk = ops.aamr_loss, ops.random_walk
    monkeypatch.setattr(ops, "aamr_loss", lambda *given: loss(*given, active=2.0, overlap=0.0))
    monkeypatch.setattr(ops, "random_walk", lambda *given: walk(*given, steps=200))
    for module in (aamr_loss, random_walk):
        report = measure(tmp_path, module.suite(), quick=True)
        assert len(report.wrong()) == len(report.rows)


def test_the_least_steps_of_a_walk():
    """kernels.md: steps x about 70 x cells x maps multiply-adds."""
    work = random_walk.least_steps(random_walk.ROWS["irn3"][1]).work
    assert 0.9 * 69 < work / (2 * 256 * 3 * 128 * 96) < 69


def test_the_table_says_that_ours_has_no_kernel(tmp_path, tiny_rows, monkeypatch):
    monkeypatch.setattr(
        harness, "has_native_kernel", lambda name, device: name != "pixel_cross_entropy"
    )
    report = measure(tmp_path, pixel_cross_entropy.suite(), quick=True, rows=("seg41",), repeats=1)
    assert report.notes == [
        "pixel_cross_entropy has no native kernel for cpu here: ours is the PyTorch reference."
    ]
    assert (
        measure(tmp_path, label_conditioned.suite(), quick=True, rows=("logits",), repeats=1).notes
        == []
    )


@pytest.mark.parametrize(
    ("rows", "backend"),
    [
        # Dynamo counts compilations whatever the backend, and this one takes a tenth of the time
        pytest.param(10, "aot_eager", id="more-than-torch-compiles-one-function"),
        pytest.param(1, "inductor", id="as-users-have-it"),
    ],
)
def test_compiled_contenders(rows, backend, tmp_path, monkeypatch, tiny_rows):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")
    heads = {
        str(k): (str(k), label_conditioned.Head((1, 4, 5, 5), 2 + k, (1,), 1)) for k in range(rows)
    }
    monkeypatch.setattr(label_conditioned, "ROWS", heads)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    report = measure(tmp_path, label_conditioned.suite(), repeats=1)
    assert all(row.times.get("compiled") for row in report.rows), [
        row.problems for row in report.rows
    ]


def test_compile_that_does_not_work_is_said(tmp_path, monkeypatch, tiny_rows):
    def breaks(function, **_):
        def call(*_):
            raise RuntimeError("no backend\nlong story")

        return call

    monkeypatch.setattr(torch, "compile", breaks)
    report = measure(tmp_path, label_conditioned.suite(), rows=("logits",), repeats=1)
    assert (
        report.rows[0].problems == {"compiled": "RuntimeError: no backend"} and not report.wrong()
    )
    assert "logits: compiled: RuntimeError: no backend" in printed(report)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_what_a_call_adds_at_its_peak():
    def needs(megabytes):
        def call(given):
            return torch.ones(megabytes << 20, dtype=torch.uint8)[:1].clone()

        return call

    given = torch.zeros(8 << 20)
    sizes = [memory._resident_growth(needs(m), (given,)) for m in (20, 60)]
    if sizes[0] is None:
        pytest.skip("the system does not tell")
    assert sizes[0] / 2**20 == pytest.approx(20, abs=3) and sizes[1] / 2**20 == pytest.approx(
        60, abs=3
    )


def test_memory_is_measured_in_a_process_of_its_own():
    size = memory.of_one_call("dense_crf", {"size": (200, 250)}, "5", "ours", "cpu", 1)
    if size is None:
        pytest.skip("the system does not tell")
    # More than Q's 1 MB of float32 once, less than every lattice entry in float64 ten times over.
    assert 1e6 < size < 1e8
    # Eager scales the features, 134 MB here; the 1x1 head needs nothing of that size.
    eager = memory.of_one_call("label_conditioned", {}, "amn-inference", "eager", "cpu", 1)
    assert eager > 2048 * 32 * 32 * 4
    with pytest.raises(RunError, match="memory of nobody was not measured: KeyError"):
        memory.of_one_call("dense_crf", {"size": SIZE}, "5", "nobody", "cpu", 1)


def test_a_memory_that_could_not_be_measured_is_in_the_table(tmp_path, monkeypatch):
    def fails(benchmark, options, row, implementation, *_):
        if implementation == "ours":
            raise RunError("memory of ours was not measured: Killed")
        return 5_000_000

    monkeypatch.setattr(memory, "of_one_call", fails)
    report = measure(tmp_path, dense_crf.suite(size=SIZE), rows=("2",), repeats=1, memory=True)
    text = printed(report)
    assert (
        "failed" in text
        and "5.0" in text
        and "2 labels: ours: memory of ours was not measured: Killed" in text
    )
    assert json.loads(report.json.read_text())["rows"][0]["unmeasured"] == {
        "ours": "memory of ours was not measured: Killed"
    }


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_commands(capfd, tmp_path, slightly_wrong):
    rest = [
        "--out",
        str(tmp_path),
        "--size",
        "40",
        "56",
        "--rows",
        "2",
        "--repeats",
        "1",
        "--quick",
        "--no-memory",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    code = cli.run(["bench", "dense_crf", *rest])
    out, err = capfd.readouterr()
    assert (
        code == 1
        and "WRONG" in out
        and "dense_crf.png" in out
        and "1 rows were wrong, first dense_crf, 2 labels" in err
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dense_crf2"], "no command 'bench dense_crf2'; did you mean bench dense_crf"),
        (["nothing"], "did you mean bench or bench all or bench dense_crf or"),
        (["dense_crf", "--rows", "7"], "invalid choice '7'"),
        (["dense_crf", "--quik"], "Perhaps you meant: --quick"),
        (["label_conditioned", "--dtype", "int8"], "invalid choice 'int8'"),
        (["all", "--threads", "-1"], "threads=-1"),
        (["all", "--rows", "2"], "Unrecognized options: --rows"),
    ],
)
def test_bad_commands(capfd, argv, said):
    assert cli.run(["bench", *argv]) == 2
    out, err = capfd.readouterr()
    assert said in err and not out and len(err.strip().splitlines()) == 1


def test_bench_without_a_name_lists_all(capfd):
    assert cli.run(["bench"]) == 0
    out = capfd.readouterr().out
    assert all(f"  {name} " in out for name in bench.BENCHMARKS) and "bench all" in out


def test_help_explains_options_and_columns(capfd):
    assert cli.run(["bench", "dense_crf", "--help"]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert (
        "4of21" in out
        and "height and width of the photos" in out
        and "peak memory of one call beyond" in out
    )
    assert "--no-memory" in out and "hard: label maps" in out


def test_bench_all_runs_all(capfd, tmp_path, monkeypatch, tiny_rows):
    monkeypatch.setattr(dense_crf, "ROWS", {"2": dense_crf.ROWS["2"]})
    for module, rows in (
        (dense_crf, ("2",)),
        (label_conditioned, ("logits",)),
        (pixel_cross_entropy, ("seg41",)),
        (pixel_bce, ("bce41",)),
        (saliency_loss, ()),
        (aamr_loss, ()),
        (random_walk, ()),
        (inference, ()),
    ):
        made = module.suite(**({"size": SIZE} if module is dense_crf else {}))
        monkeypatch.setattr(
            module,
            "suite",
            lambda made=made, rows=rows: dataclasses.replace(made, quick=rows or made.quick),
        )
    assert (
        cli.run(
            ["bench", "all", "--out", str(tmp_path), "--repeats", "1", "--quick", "--threads", "1"]
        )
        == 0
    )
    out = capfd.readouterr().out
    assert all(
        (tmp_path / f"{name}{end}").is_file()
        for name in bench.BENCHMARKS
        for end in (".json", ".png")
    )
    assert "2 labels" in out and "logits" in out and "plain 10x21x41x41" in out


def test_an_interrupted_bench_says_what_is_kept(capfd, tmp_path, monkeypatch):
    def interrupted(image, unary, **terms):
        raise KeyboardInterrupt

    monkeypatch.setattr(ops, "dense_crf", interrupted)
    assert (
        cli.run(
            [
                "bench",
                "dense_crf",
                "--size",
                "24",
                "32",
                "--rows",
                "2",
                "--quick",
                "--out",
                str(tmp_path),
            ]
        )
        == 130
    )
    assert "finished are in the JSON file" in capfd.readouterr().err
