"""What may be compressed, by granularity.

Adding one takes a file here and a line in ``SEARCH_SPACES``.
"""

SEARCH_SPACES: dict[str, str] = {
    "channel": "search_spaces.channel:ChannelSpace",
    "nm": "search_spaces.nm:NMSpace",
    "fine_grained": "search_spaces.fine_grained:FineGrainedSpace",
    "depth": "search_spaces.depth:DepthSpace",
    "mixed": "search_spaces.mixed:MixedSpace",
}
