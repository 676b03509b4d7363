"""The colours of pages and pictures, light and dark, and the type of the pictures."""

from typing import Any

LIGHT = {
    "paper": "#fffefb",
    "ink": "#1d1c1a",
    "muted": "#6a665f",
    "faint": "#b3aea4",
    "rule": "#e2ded5",
    "wash": "#d6d1c6",
    "blue": "#2166a8",
    "orange": "#bf5a19",
    "green": "#2b8259",
    "purple": "#81529c",
    "gold": "#94700a",
    "teal": "#1f7c8b",
}
DARK = {
    "paper": "#161513",
    "ink": "#ebe8e1",
    "muted": "#a8a399",
    "faint": "#716c64",
    "rule": "#34322e",
    "wash": "#47443f",
    "blue": "#78b4ea",
    "orange": "#eb9a63",
    "green": "#6fc59d",
    "purple": "#c49bdb",
    "gold": "#d9b752",
    "teal": "#62bdcc",
}
SERIES = ("blue", "orange", "green", "purple", "gold", "teal")
STATUS_COLOURS = {
    "trained": "blue",
    "stopped": "teal",
    "dead": "faint",
    "diverged": "orange",
    "rejected": "wash",
}
PICTURE_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nos_optax",
    "text.parse_math": False,  # a folder's name may hold dollar signs
    "font.size": 12,
    "font.family": "DejaVu Sans",
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT["faint"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": LIGHT["rule"],
    "xtick.color": LIGHT["faint"],
    "ytick.color": LIGHT["faint"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": LIGHT["ink"],
    "lines.solid_capstyle": "round",
}


def variables(colours: dict[str, str]) -> str:
    """Return colours as CSS variables."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
