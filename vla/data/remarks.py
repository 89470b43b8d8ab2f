"""What there is to say of sound data, a sentence each."""

from vla.contract import name_streams
from vla.data.episode import Layout
from vla.units import told, units_of


def on_units(layout: Layout) -> str:
    """Which units the root says its numbers have, and of which nothing can be compared with other data."""
    units = {"action": units_of(layout.action_names, layout.action_units)}
    if layout.state_dim:
        units["state"] = units_of(layout.state_names, layout.state_units)
    for name, key in name_streams(list(layout.streams)).items():
        units[name] = units_of(layout.streams[key].names, layout.streams[key].units)
    known = [f"{kind} {told(given)}" for kind, given in units.items() if any(given)]
    unsaid = [kind for kind, given in units.items() if not given or not all(given)]
    sentences = ["units: " + "; ".join(known)] if known else []
    if unsaid:
        sentences.append(
            f"units of {' and '.join(unsaid)} that are not said are not compared with those of other data or a policy"
        )
    return "; ".join(sentences)
