# SPDX-License-Identifier: BSD-2-Clause
"""What godwit says of its devices."""


def device(guest, ident):
    """The entry of godwit-devices for a device."""
    return next(d for d in guest.qmp.command("godwit-devices") if d["id"] == ident)
