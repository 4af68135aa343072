"""Tables of the benchmark of AMN's ablations."""

import pytest

from benchmarks import amn_analyses


def records(miou):
    shown = {"miou": miou, "miou_at_fixed": miou - 0.01}
    return {
        "amn": {
            **shown,
            "curve": {"thresholds": (0.1, 0.2, 0.3), "miou": (miou - 0.01, miou, miou - 0.05)},
            "own_thresholds": {"miou": miou + 0.04, "spread": 0.125},
            "look_alikes": {"all": 0.03, "a/b": 0.1},
            "look_alikes_unfiltered": {"all": 0.05},
        },
        "amn+crf": {"miou": miou + 0.1, "miou_at_fixed": miou + 0.09},
        "cam+crf": {"miou": miou, "miou_at_fixed": miou},
    }


def test_figures_of_a_variant_and_their_table():
    found = records(0.7)
    row = amn_analyses.row(found, "amn")
    assert row["own"] == pytest.approx(4) and row["width"] == pytest.approx(0.1)
    assert (row["maps"], row["unfiltered"]) == pytest.approx((3, 5))
    found["cam"] = {k: v for k, v in found["amn"].items() if k != "look_alikes_unfiltered"}
    seeds = [
        {"cam": amn_analyses.row({**found, **r}, "cam"), "amn": amn_analyses.row(r, "amn")}
        for r in (found, {**found, "amn": records(0.72)["amn"]})
    ]
    lines = amn_analyses.table(seeds).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[0] == "cam" and cells[1] == "70.0 ± 0.0" and cells[9] == ""
    assert cells[10] == "-1.0 (+0.0, -2.0)"
    assert lines[3].split("|")[2].strip() == "71.0 ± 1.0" and lines[3].endswith("|  |  |")
