# SPDX-License-Identifier: BSD-2-Clause
"""A second reader of snapshot files, from the format's description alone: the oracle of the first.

It walks the stream as QEMU's scripts/analyze-migration.py does: the description at the end of the file says how long each
section is. So it reads files of QEMU, and ours without knowing our sections; what is ours it looks at in `check_godwit`.
"""

import json
import struct

PAGE = 4096
CHUNK = 256 * 1024


class Block:
    def __init__(self, name, size, bitmap, pages_offset):
        self.name, self.size, self.bitmap, self.pages_offset = name, size, bitmap, pages_offset

    def stored(self, page):
        return self.bitmap[page // 8] >> page % 8 & 1


class Snapshot:
    def __init__(self, path):
        self.path = path
        self.file = open(path, "rb")
        self.sections = {}  # (name, instance): bytes of the body
        self.blocks = []
        self.capabilities = []
        self.description = self._description()
        self._walk()

    def _take(self, size):
        data = self.file.read(size)
        assert len(data) == size, f"cut off at {self.file.tell():#x}"
        return data

    def _number(self, size):
        return int.from_bytes(self._take(size), "big")

    def _name(self):
        return self._take(self._number(1)).decode()

    def _description(self):
        self.file.seek(0, 2)
        self.size = self.file.tell()
        start = max(0, self.size - 10 * 1024 * 1024)
        self.file.seek(start)
        tail = self.file.read()
        brace = tail.find(b"{", tail.rfind(b"\0"))
        assert tail[brace - 5] == 6, "no description"
        length, = struct.unpack(">I", tail[brace - 4:brace])
        self.description_end = start + brace + length
        self.file.seek(0)
        return json.loads(tail[brace:brace + length])

    def _fields(self, description):
        """Reads what is described; a list of (name, value)."""
        values = []
        for field in description.get("fields", []):
            for _ in range(field.get("array_len", 1)):
                if field["type"] == "capability":
                    values.append((field["name"], self._name()))
                    continue
                values.append((field["name"], self._take(field["size"])))
        for subsection in description.get("subsections", []):
            assert self._number(1) == 5
            assert self._name() == subsection["vmsd_name"]
            self._number(4)
            values += self._fields(subsection)
        return values

    def _walk(self):
        assert self._take(8) == b"QEVM\0\0\0\3"
        assert self._number(1) == 7
        values = self._fields(self.description["configuration"])
        self.machine = dict(values)["name"].decode()
        self.capabilities = [value for name, value in values if name == "capabilities"]
        assert "mapped-ram" in self.capabilities
        devices = {(device["name"], device["instance_id"]): device for device in self.description["devices"]}
        names = {}
        while kind := self._number(1):
            if kind == 8:
                assert self._take(4) == b"\0\x0b\0\0"
                continue
            number = self._number(4)
            if kind in (1, 4):
                name, instance, version = self._name(), self._number(4), self._number(4)
                names[number] = name
            if names[number] == "ram":
                if kind == 1:
                    assert version == 4
                    self._ram()
                while (flags := self._number(8)) != 0x10:
                    assert flags == 0x200
            else:
                assert kind == 4, f"section {names[number]} of type {kind}"
                device = devices[name, instance]
                assert device.get("version", version) == version
                start = self.file.tell()
                self._fields(device)
                end = self.file.tell()
                self.file.seek(start)
                self.sections[name, instance] = self._take(end - start)
            assert self._number(1) == 0x7e and self._number(4) == number, f"{names[number]} ends elsewhere"

    def _ram(self):
        total = self._number(8)
        assert total & 0xfff == 4
        total -= 4
        while total:
            name, size = self._name(), self._number(8)
            total -= size
            version, page, bitmap_at, pages_at = struct.unpack(">IQQQ", self._take(28))
            assert (version, page) == (1, PAGE)
            assert bitmap_at == self.file.tell()
            pages = size // PAGE
            bitmap = self._take((pages + 63) // 64 * 8)
            assert pages_at == (self.file.tell() + 0xfffff) & ~0xfffff
            self.blocks.append(Block(name, size, bitmap, pages_at))
            self.file.seek(pages_at + size)

    def block(self, name):
        found, = [block for block in self.blocks if block.name == name]
        return found

    def read(self, name, base=None):
        """The content of a block; `base` is the Snapshot that inherited pages come from."""
        block = self.block(name)
        content = bytearray(block.size)
        inherited = self.inherited().get(name)
        below = base.read(name) if base and name in [other.name for other in base.blocks] else b""
        for page in range(block.size // PAGE):
            if block.stored(page):
                self.file.seek(block.pages_offset + page * PAGE)
                content[page * PAGE:(page + 1) * PAGE] = self._take(PAGE)
            elif inherited and inherited[page // 8] >> page % 8 & 1:
                content[page * PAGE:(page + 1) * PAGE] = below[page * PAGE:(page + 1) * PAGE]
        return bytes(content)

    def body(self, name, instance=0):
        """The body of one of our sections, without its length."""
        data = self.sections[name, instance]
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        return data[4:]

    def inherited(self):
        """The bitmap of inherited pages of each block."""
        if ("godwit/inherited", 0) not in self.sections:
            return {}
        data, maps = self.body("godwit/inherited"), {}
        for block in self.blocks:
            size = len(block.bitmap)
            maps[block.name], data = data[:size], data[size:]
        assert not data
        return maps

    def check_godwit(self):
        """What docs/snapshot-format.md says of our files, but for the values of checksums."""
        assert self.machine == "godwit-1"
        order = [name for name, _ in self.sections]
        assert order[0] == "godwit/file"
        assert order[-1] == "godwit/end"
        assert "godwit/checksums" in order[-3:]
        magic, identity, size, _ = struct.unpack(">8s16sQQ", self.body("godwit/end"))
        assert magic == b"godwit.\1"
        assert size == self.size == self.description_end
        page, chunk, own = struct.unpack(">QQ16s", self.body("godwit/file")[:32])
        assert (page, chunk, own) == (PAGE, CHUNK, identity)
        chunks = sum(-(-block.size // CHUNK) for block in self.blocks)
        checksums = self.body("godwit/checksums")
        assert len(checksums) == 16 * chunks
        for block in self.blocks:
            for number in range(-(-block.size // CHUNK)):
                checksum, checksums = checksums[:16], checksums[16:]
                pages = block.bitmap[number * 8:number * 8 + 8]
                inherited = self.inherited().get(block.name, bytes(len(block.bitmap)))[number * 8:number * 8 + 8]
                assert any(checksum) or not any(inherited), "a chunk of zeros inherits something"
                assert any(checksum) == (any(pages) or any(inherited))
