"""Help that fits: options in panels, what is needed first, and a switch without a type, as it takes no value.

typer asks a command for its parameters when it prints help; they are sorted and labelled there.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

PANELS = ("Needed", "Search", "Resolution and mask", "Data", "Computing", "Rare")
_NEEDED, _SEARCH, _DETAIL, _DATA, _COMPUTING, _RARE = PANELS

# typer puts the panel of options without one, called Options, before what is needed; hence another name.
_OWN = "Options of this command"
# The panel of options by their parameter; those that are not here stand in that one, after what is needed.
PANEL_OF = {
    **dict.fromkeys(("reference", "output", "phantom", "structure"), _NEEDED),
    **dict.fromkeys(
        (
            *("local", "max_rotation_deg", "prior_rotation_sd_deg", "prior_shift_sd_angstrom", "max_shift_angstrom"),
            *("symmetry", "initial_model", "iterations", "references", "count", "classes", "decoys", "max_q"),
            "continue_from",
        ),
        _SEARCH,
    ),
    **dict.fromkeys(
        (
            *("resolution_angstrom", "start_resolution_angstrom", "mask", "mask_diameter_angstrom"),
            *("particle_diameter_angstrom", "diameter_angstrom", "half_maps"),
        ),
        _DETAIL,
    ),
    **dict.fromkeys(
        (
            *("tilt_range_deg", "axis_deg", "tilt_files", "tilt_weights", "tomograms_path", "data_path", "invert"),
            *("voxel_size_angstrom", "pixel_size_angstrom", "defocus_hand", "reverse_tilts", "ctf_image", "centre"),
            *("split", "overlap_distance_angstrom", "duplicates_angstrom", "from_format", "to_format", "tomogram_size"),
        ),
        _DATA,
    ),
    **dict.fromkeys(
        ("threads", "device", "overwrite", "resume", "scheduler", "dask", "seed", "as_json", "help"), _COMPUTING
    ),
    **dict.fromkeys(
        (
            *("score", "search", "inputs", "pool", "seed_interval_deg", "assignment", "subset", "learn", "permissive"),
            *("float16", "truth", "tomostar", "pairs_up_to"),
        ),
        _RARE,
    ),
}


def _shown(parameters: list[Any]) -> list[Any]:
    """Label options with their panel and sort them by it; arguments stay as they are, and come first."""
    order = (_NEEDED, _OWN, *PANELS[1:])
    for one in parameters:
        if one.param_type_name != "option":
            continue
        if getattr(one, "is_flag", False):
            one.metavar = ""
        if one.rich_help_panel is None:
            one.rich_help_panel = _NEEDED if one.required else PANEL_OF.get(one.name, _OWN)
    return sorted(
        parameters, key=lambda one: order.index(one.rich_help_panel if one.param_type_name == "option" else _NEEDED)
    )


class Command(TyperCommand):
    """A command whose options stand in panels."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments, and options in the order of their panels."""
        return _shown(super().get_params(ctx))


class Group(TyperGroup):
    """The program, whose switches have no type either."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return options in the order of their panels."""
        return _shown(super().get_params(ctx))
