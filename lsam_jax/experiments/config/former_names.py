"""What methods were called before the command line had the library's names."""

from collections.abc import Mapping
from typing import Any

FORMAT = 2
"""Of a configuration's JSON: since 2, methods have their names in the library."""

FORMER_NAMES: Mapping[str, str] = {
    "gsam": "generalized_sam",
    "lsam": "layerwise_sam",
    "lsam_budget": "layerwise_sam",
    "looksam": "look_sam",
}
"""By what a configuration of a format before `FORMAT` calls a method."""


def in_todays_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `Config.to_json` gave, in this version or one before, without the number of its format.

    Example:
        >>> in_todays_names({"method": "lsam"}), in_todays_names({"format": 2, "method": "gsam"})
        ({'method': 'layerwise_sam'}, {'method': 'gsam'})
    """
    fields = dict(values)
    if fields.pop("format", 1) < FORMAT and fields.get("method") in FORMER_NAMES:
        fields["method"] = FORMER_NAMES[fields["method"]]
    return fields
