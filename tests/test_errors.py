"""The cause of an error is what stands last on the terminal."""

from __future__ import annotations

import errno
import os
import sys

import pytest
from monai.transforms import Compose, Lambda
from monai.utils import instantiate

from common.errors import cause, end_with_cause


def raised(call) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def stop(sentence: str) -> None:
    raise ValueError(sentence)


def test_monai_s_wrapping_is_left_out():
    error = raised(lambda: Compose([Compose([Lambda(lambda _: stop("image a.png must be grey."))])])(0))
    assert "image a.png" not in str(error)
    assert cause(error) == "image a.png must be grey."


def test_own_words_stay_although_they_have_a_cause():
    def translate() -> None:
        try:
            int("x")
        except ValueError as error:
            raise FileNotFoundError("a.json must hold a number.") from error

    assert cause(raised(translate)) == "a.json must hold a number."


def test_other_errors_name_what_was_made():
    error = raised(lambda: instantiate("common.label_space.LabelSpace", "default", classes=["a"], colour="red"))
    assert cause(error).startswith("LabelSpace.__init__() got an unexpected keyword argument 'colour' (")
    assert "'common.label_space.LabelSpace'" in cause(error)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "fit on the disk, got no space left: make room, or write elsewhere; a training goes on with"),
        (errno.EROFS, "be on a disk that can be written, got a read-only one: write elsewhere."),
    ],
)
def test_what_a_disk_refuses_has_a_remedy(number, sentence):
    assert cause(OSError(number, os.strerror(number), "model.pt")).startswith(f"model.pt must {sentence}")


def test_an_error_without_words_is_named():
    assert cause(KeyError()) == "KeyError"
    assert cause(RuntimeError("bare")) == "bare"


def test_it_ends_what_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    end_with_cause()
    error = raised(lambda: Compose([Lambda(lambda _: stop("image a.png must be grey."))])(0))
    sys.excepthook(type(error), error, error.__traceback__)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "Error: image a.png must be grey."


def test_an_interruption_needs_no_cause(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    end_with_cause()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "Error:" not in capsys.readouterr().err
