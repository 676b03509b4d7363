"""The colours of pages and pictures, light and dark."""

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
VARIABLES = {name: f"var(--{name})" for name in LIGHT}  # the colours of the page around a picture
SERIES = ("blue", "orange", "green", "purple", "gold", "teal")
STATUS_COLOURS = {
    "trained": "blue",
    "stopped": "teal",
    "dead": "faint",
    "diverged": "orange",
    "rejected": "wash",
}
