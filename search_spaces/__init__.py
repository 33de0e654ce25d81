"""What may be compressed, by granularity.

Adding one takes a file here and a line in ``SEARCH_SPACES``.
"""

SEARCH_SPACES: dict[str, str] = {"channel": "search_spaces.channel:ChannelSpace"}
