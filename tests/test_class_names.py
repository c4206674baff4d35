"""What classes may be called."""

from __future__ import annotations

import pytest

from common.class_names import require_class_name, require_class_names
from common.label_space import LabelSpace

BAD = ["", " ", "a/b", "../../x", "a:b", "-x", "mean", "all", "Background", "NA", "#NA", "a\nb", "lung, left"]
BAD += ["x" * 101, None, True, ["a"]]


@pytest.mark.parametrize("name", BAD)
def test_names_that_no_file_or_table_can_hold(name):
    for refuse in (lambda: require_class_name(name), lambda: LabelSpace(["lung", name])):
        with pytest.raises(ValueError, match="a class must "):
            refuse()


def test_other_names_are_taken():
    for sound in ("right lung", "lesion_1", "Läsion", "case", "x" * 100, 7):
        require_class_name(sound)
    require_class_names(["Lung", "lungs", "01", "1"])


@pytest.mark.parametrize("names", [["lung", "lung"], ["Lung", "lung"], [1, "1"], ["\u00e9", "e\u0301"], ["ß", "SS"]])
def test_names_that_differ_in_case_alone(names):
    for refuse in (require_class_names, LabelSpace):
        with pytest.raises(ValueError, match="classes must differ from one another, and not in case alone, got"):
            refuse(names)


@pytest.mark.parametrize("names", [[], "lung", 5, None, {"a": 1}])
def test_what_is_no_list_of_names(names):
    with pytest.raises(ValueError, match="classes must be a list with at least one name"):
        LabelSpace(names)
