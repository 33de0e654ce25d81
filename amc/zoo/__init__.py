"""The shipped tasks: trained networks with real data, by name.

Adding one takes a file here that defines a factory (see ``amc.task.Task``) and a line in ``ZOO``.
"""

ZOO: dict[str, str] = {
    "resnet8": "amc.zoo.fashion:resnet8",
    "resnet20": "amc.zoo.fashion:resnet20",
    "mobilenet": "amc.zoo.fashion:mobilenet",
    "digits": "amc.zoo.digits:digits",
}
