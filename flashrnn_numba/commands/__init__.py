"""The commands of the command line, one module each: `add_arguments(parser)`, `run(arguments)`."""

COMMANDS = {
    "parity": "train on parity up to length 40, measure accuracy at lengths up to 1024",
    "check": "check a cell: derived gradient, every backend against the oracle",
    "plan": "which kernel runs a problem on a device, with which tiling, and why",
    "info": "versions, processor, GPUs, directories, cells",
}


class UsageError(Exception):
    """Wrong usage that argparse cannot see; the message names the option. Exit status 2."""
