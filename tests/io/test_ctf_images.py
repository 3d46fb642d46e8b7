"""What the volumes in rlnCtfImage hold is told by list, values or caller, and never guessed in silence."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gonio.io import FormatError, read_particles
from gonio.particle.volume import Subtomogram
from gonio.particle.wedge import SquaredTransferWedge, WeightVolumeWedge

BOX, VOXEL = 8, 10.0
K = np.arange(BOX) - BOX // 2
RADIUS = np.sqrt((K**2)[:, None, None] + (K**2)[:, None] + K**2)
SIGNED = np.cos(0.8 * RADIUS).astype(np.float32)
DATA = np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)


def half(whole: np.ndarray) -> np.ndarray:
    """As RELION 4 writes it."""
    return np.fft.ifftshift(whole)[..., : BOX // 2 + 1]


def listed(folder: Path, stored: np.ndarray, *, optics: str = "", column: str = "", value: str = "") -> Path:
    """A list of one subtomogram with a volume in rlnCtfImage; ``optics`` and ``column`` are set to ``value``."""
    for name, data in (("data.mrc", DATA), ("ctf.mrc", stored)):
        with mrcfile.new(folder / name, overwrite=True) as mrc:
            mrc.set_data(np.ascontiguousarray(data, dtype=np.float32))
            mrc.voxel_size = VOXEL
    lines = ["", "data_optics", "", "loop_", "_rlnOpticsGroup #1", "_rlnImagePixelSize #2"]
    lines += [f"_{optics} #3"] * bool(optics) + [f"1 {VOXEL} {value if optics else ''}", "", "data_particles", ""]
    lines += ["loop_", "_rlnMicrographName #1", "_rlnImageName #2", "_rlnCtfImage #3", "_rlnOpticsGroup #4"]
    lines += [f"_{column} #5"] * bool(column) + [f"T1 data.mrc ctf.mrc 1 {value if column else ''}"]
    path = folder / "particles.star"
    path.write_text("\n".join(lines) + "\n")
    return path


def loaded(path: Path, **options: str) -> Subtomogram:
    particle = read_particles(path, **options).load(0)
    assert isinstance(particle, Subtomogram)
    return particle


def assert_sums(particle: Subtomogram, data: np.ndarray, squares: np.ndarray) -> None:
    inside = (slice(1, None),) * 3  # the planes at -n/2 are their own mirror images and may differ
    assert isinstance(particle.wedge, SquaredTransferWedge)
    squares = squares.copy()
    squares[(BOX // 2,) * 3] = 0.0
    np.testing.assert_allclose(particle.wedge.weights[inside], squares[inside], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(particle.volume.data, data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["whole", "half", "with multiplicities"])
def test_premultiplied_images_come_with_squared_transfers(tmp_path, layout):
    squares = 30.0 * SIGNED**2
    stored = {"whole": squares, "half": half(squares), "with multiplicities": np.concatenate([half(squares)] * 2)}
    path = listed(tmp_path, stored[layout], optics="rlnCtfDataAreCtfPremultiplied", value="1")
    assert_sums(loaded(path), DATA, squares)


def test_multiplicities_tell_squared_transfers_of_a_list_that_does_not(tmp_path):
    path = listed(tmp_path, np.concatenate([half(30.0 * SIGNED**2)] * 2))
    assert_sums(loaded(path), DATA, 30.0 * SIGNED**2)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_transfer_of_any_sign_is_multiplied_in(tmp_path, flipped):
    path = listed(tmp_path, SIGNED, optics="rlnCtfDataArePhaseFlipped", value=str(int(flipped)))
    transfer = np.abs(SIGNED) if flipped else SIGNED
    data = np.fft.ifftn(np.fft.fftn(DATA) * np.fft.ifftshift(transfer)).real
    assert_sums(loaded(path), data, SIGNED**2)


def test_a_volume_of_warp_is_a_transfer_without_sign(tmp_path):
    path = listed(tmp_path, np.abs(SIGNED))
    assert_sums(loaded(path), np.fft.ifftn(np.fft.fftn(DATA) * np.fft.ifftshift(np.abs(SIGNED))).real, SIGNED**2)


def test_a_volume_of_zeros_and_ones_says_what_was_measured(tmp_path):
    measured = (RADIUS < 3).astype(np.float32)
    particle = loaded(listed(tmp_path, measured))
    assert isinstance(particle.wedge, WeightVolumeWedge)
    assert np.array_equal(particle.wedge.weights, measured)
    assert np.array_equal(particle.volume.data, DATA)


@pytest.mark.parametrize("column", ["gonioCtfImage", "gonioOutside"])
def test_weights_that_gonio_extract_wrote_are_how_much_a_frequency_counts(tmp_path, column):
    path = listed(tmp_path, np.abs(SIGNED), column=column, value={"gonioCtfImage": "confidence"}.get(column, "0.0"))
    particle = loaded(path)
    assert isinstance(particle.wedge, WeightVolumeWedge)
    np.testing.assert_allclose(particle.wedge.weights, np.abs(SIGNED), rtol=1e-5)
    assert np.array_equal(particle.volume.data, DATA)


def test_values_that_may_be_sums_are_asked_about(tmp_path):
    path = listed(tmp_path, 30.0 * SIGNED**2)
    with pytest.raises(FormatError, match=r"reach 30, more than a transfer.*--ctf-image squares, transfer"):
        loaded(path)
    assert_sums(loaded(path, ctf_image="squares"), DATA, 30.0 * SIGNED**2)
    assert isinstance(loaded(path, ctf_image="confidence").wedge, WeightVolumeWedge)


def test_what_is_asked_for_goes_before_what_the_list_says(tmp_path):
    path = listed(tmp_path, SIGNED**2, optics="rlnCtfDataAreCtfPremultiplied", value="1")
    data = np.fft.ifftn(np.fft.fftn(DATA) * np.fft.ifftshift(SIGNED**2)).real
    assert_sums(loaded(path, ctf_image="transfer"), data, SIGNED**4)


@pytest.mark.parametrize("kind", ["squares", "confidence"])
def test_negative_values_are_neither_squares_nor_confidence(tmp_path, kind):
    path = listed(tmp_path, SIGNED)
    with pytest.raises(FormatError, match=rf"reach -0.*those of {kind}.*not negative.*--ctf-image"):
        loaded(path, ctf_image=kind)


def test_half_precision_leaves_squares_a_little_below_zero(tmp_path):
    squares = 30.0 * SIGNED**2
    path = listed(tmp_path, squares - 0.01, optics="rlnCtfDataAreCtfPremultiplied", value="1")
    assert_sums(loaded(path), DATA, np.maximum(squares - 0.01, 0.0))


def test_tilts_do_not_say_what_premultiplied_images_hold(tmp_path):
    path = listed(tmp_path, SIGNED**2, optics="rlnCtfDataAreCtfPremultiplied", value="1")
    with pytest.raises(FormatError, match=r"rlnCtfDataAreCtfPremultiplied.*leave out --tilt-range"):
        read_particles(path, tilt_range_deg=(-60, 60)).load(0)


def test_a_column_that_states_nothing_known_is_refused(tmp_path):
    path = listed(tmp_path, SIGNED**2, column="gonioCtfImage", value="other")
    with pytest.raises(FormatError, match="must be one of squares, transfer, confidence, is 'other'"):
        loaded(path)


def test_lists_without_such_volumes_are_not_asked_what_they_hold(tmp_path):
    path = listed(tmp_path, SIGNED)
    path.write_text(path.read_text().replace("_rlnCtfImage", "_rlnOther"))
    with pytest.raises(FormatError, match=r"no 3-D volumes in rlnCtfImage.*leave out --ctf-image"):
        read_particles(path, ctf_image="squares")
