import numpy as np
import pytest

from vaegan_pl.model.schedule import PowerDecay


def test_it_falls_from_one_to_its_stop_by_the_power() -> None:
    decay = PowerDecay(stop=0.1, exponent=0.75, epochs=5)
    expected = [1.0, 1 - 0.9 * np.float64(0.2) ** 0.75, 1 - 0.9 * np.float64(0.8) ** 0.75]
    assert [decay(epoch) for epoch in (0, 1, 4)] == pytest.approx(expected)
    assert decay(5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("stop", "exponent", "epochs", "name"),
    [(1.5, 1.0, 5, "stop=1.5"), (0.1, 0.0, 5, "exponent=0.0"), (0.1, 1.0, 0, "epochs=0")],
)
def test_options_out_of_range_are_refused(stop: float, exponent: float, epochs: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"optimizer.schedule.lr_lambda.{name}"):
        PowerDecay(stop, exponent, epochs)
