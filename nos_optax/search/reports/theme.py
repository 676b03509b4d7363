"""The colours of pages and pictures."""

COLOURS = {  # on light paper and on dark
    "paper": ("#fffefb", "#161513"),
    "ink": ("#1d1c1a", "#ebe8e1"),
    "muted": ("#6a665f", "#a8a399"),
    "faint": ("#b3aea4", "#716c64"),
    "rule": ("#e2ded5", "#34322e"),
    "wash": ("#d6d1c6", "#47443f"),
    "blue": ("#2166a8", "#78b4ea"),
    "orange": ("#bf5a19", "#eb9a63"),
    "green": ("#2b8259", "#6fc59d"),
    "purple": ("#81529c", "#c49bdb"),
    "gold": ("#94700a", "#d9b752"),
    "teal": ("#1f7c8b", "#62bdcc"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
VARIABLES = {name: f"var(--{name})" for name in COLOURS}  # of the page around a picture
SERIES = ("blue", "orange", "green", "purple", "gold", "teal")
STATUS_COLOURS = {
    "trained": "blue",
    "dead": "faint",
    "diverged": "orange",
    "slow": "gold",
    "rejected": "wash",
}
