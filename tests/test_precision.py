"""What ``auto`` comes to."""

from __future__ import annotations

import pytest
import torch

from scmd.machine import chosen_precision

CPU = torch.device("cpu")


def with_abilities(monkeypatch: pytest.MonkeyPatch, **abilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_that_multiplies_in_bf16_does_on_large_images(monkeypatch, name: str):
    with_abilities(monkeypatch, **{name: True})
    assert chosen_precision("auto", CPU, 224) == "bf16"
    assert chosen_precision("auto", CPU, 32) == "fp32"


def test_another_cpu_computes_in_fp32(monkeypatch):
    with_abilities(monkeypatch, avx512_bf16=False, avx2=True)
    assert chosen_precision("auto", CPU, 224) == "fp32"


@pytest.mark.parametrize("able", [True, False])
def test_a_gpu_that_has_bf16_uses_it(monkeypatch, able: bool):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: able)
    chosen = chosen_precision("auto", torch.device("cuda"), 32)
    assert chosen == ("bf16" if able else "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_asked_for_is_done(monkeypatch, precision):
    with_abilities(monkeypatch, avx512_bf16=True)
    assert chosen_precision(precision, CPU, 224) == precision
