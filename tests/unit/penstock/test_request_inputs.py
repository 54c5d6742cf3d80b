"""`penstock request --input`: arrays as they are written, or one line."""

from __future__ import annotations

import numpy as np
import pytest
import typer

from penstock.commands.request import array_of


def test_an_array_has_the_datatype_that_is_asked_for() -> None:
    name, array = array_of("x=[[1.5, 2]]")
    assert (name, array.dtype, array.tolist()) == ("x", np.float32, [[1.5, 2.0]])
    assert array_of("n:INT64=[[9007199254740993]]")[1].tolist() == [[9007199254740993]]
    assert array_of("n:INT64=[2.0, -3]")[1].tolist() == [2, -3]
    assert array_of('t:BYTES=["a"]')[1].dtype == object


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("x:INT64=[[2.7]]", "--input x: [[2.7]] does not fit INT64, which has whole numbers only"),
        ("x:UINT8=[255.9]", "--input x: [255.9] does not fit UINT8"),
        ("x:UINT8=[256]", "--input x: "),
        ("x:FP7=[1]", "unknown datatype 'FP7'"),
        ("x", "expected name=JSON"),
        ("x=[[1], [1, 2]]", "--input x: "),
    ],
)
def test_what_is_none_is_one_line(pair: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        array_of(pair)
    assert caught.value.exit_code == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
