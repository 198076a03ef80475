# SPDX-License-Identifier: BSD-2-Clause
"""The back-ends that Debian has, each through all that moves and saves a machine, with mini-guests: it works, or is refused by
name. The disks of QEMU 7.2's storage daemon are in test_vhost_user.py and test_vhost_user_move.py."""

import pytest
from mini_machine import ENDLESS, LIMIT, Original, Restored, refused
from support.back_ends import image, shared_folder, storage_daemon
from support.debian_back_ends import QEMU_10_STORAGE_DAEMON, dpdk, passt, rust_shared_folder
from support.vm import MIB
from test_vhost_user import back_end_of, rounds, wait_back_end
from test_vhost_user_move import Destination, SlowSave, Source, begin_postcopy, check_went_on, release


class Peer:
    """A back-end, and the guest that uses it.

    Devices keep files in `shared`, which the back-ends of both ends have. Some can wait for memory (PAGEFAULT); passt ends when
    it has said its state.
    """

    def __init__(self, guest, option, make, cmdline="", waits=False, ends_when_saved=False):
        self.guest, self.option, self.make = guest, option, make
        self.waits, self.ends_when_saved = waits, ends_when_saved
        self.cmdline = f"rounds={ENDLESS} ballast=1000 {cmdline}"

    def back_end(self, folder, shared):
        folder.mkdir()
        return self.make(folder, shared)

    def device(self, back_end):
        return self.option.format(f"vhost-user:{back_end.socket}").split()


PEERS = {
    "storage-daemon-10": Peer("disk", "--disk {},id=dev", lambda folder, shared: storage_daemon(
        folder, shared / "disk", program=QEMU_10_STORAGE_DAEMON, lock=False), "kept=40"),
    "virtiofsd-rust": Peer("folder", "--fs {},tag=shared,id=dev", rust_shared_folder, "kept=40"),
    "passt": Peer("packets", "--net {},id=dev", lambda folder, shared: passt(folder), ends_when_saved=True),
    "testpmd": Peer("packets", "--net {},id=dev", lambda folder, shared: dpdk(folder, postcopy=True), "echo=1", waits=True),
}


@pytest.fixture(params=PEERS)
def peer(request):
    return PEERS[request.param]


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    image(folder / "disk", 1 * MIB)
    image(folder / "file", 1 * MIB)
    return folder


@pytest.fixture
def here(peer, tmp_path, shared):
    with peer.back_end(tmp_path / "here", shared) as back_end:
        yield back_end.start()


@pytest.fixture
def there(peer, tmp_path, shared):
    with peer.back_end(tmp_path / "there", shared) as back_end:
        yield back_end.start()


@pytest.fixture
def source(peer, here, tmp_path):
    with Source(tmp_path, peer.guest, *peer.device(here), cmdline=peer.cmdline) as vm:
        check_went_on(vm, more=30)
        yield vm


@pytest.fixture
def destination(peer, there, tmp_path):
    with Destination(tmp_path, f"unix:{tmp_path}/socket", *peer.device(there)) as vm:
        vm.wait_said("waiting for a VM")
        yield vm


def test_moves_while_it_works(source, destination, tmp_path):
    source.migrate(f"unix:{tmp_path}/socket")
    assert source.wait(LIMIT) == 0
    check_went_on(source, destination)
    assert back_end_of(destination, "dev")["sessions"] == 1


def test_goes_on_before_its_memory_has_come(peer, source, destination, tmp_path):
    """What cannot wait for memory stands still until all of it is there."""
    begin_postcopy(source, destination, tmp_path)
    if peer.waits:
        check_went_on(source, destination)
        assert destination.migration()["lacking-pages"] > 0
    else:
        destination.wait_said("the device stands still until all of it is there")
        assert len(rounds(destination.text())) <= 1  # what it was about to say
    release(source)
    assert source.wait(LIMIT) == 0
    check_went_on(source, destination)


def test_saved_machine_goes_on(here, source, shared, tmp_path):
    source.cli("pause", source.name)
    source.save(tmp_path / "snapshot")
    source.kill()
    files = {path: path.read_bytes() for path in shared.iterdir()}
    for options in ((), ("--lazy",)):
        here.kill()  # some end by themselves when nobody uses them any more
        for path, content in files.items():
            path.write_bytes(content)
        here.start()
        with Restored(tmp_path, tmp_path / "snapshot", *options) as vm:
            check_went_on(source, vm)


def test_machine_is_saved_while_it_works(peer, here, source, shared, tmp_path):
    save = SlowSave(source, tmp_path)
    last = rounds(source.text())[-1]
    files = {path: path.read_bytes() for path in shared.iterdir()}  # the device rests
    save.finish()
    if peer.ends_when_saved:
        wait_back_end(source, False, "dev")
        here.start()
    check_went_on(source)
    source.kill()
    here.kill()
    for path, content in files.items():
        path.write_bytes(content)
    here.start()
    with Restored(tmp_path, save.file) as vm:
        vm.wait_text(lambda text: len(rounds(text)) > 30)
        done = rounds(vm.text())
        assert done[0] <= last + 2 and done == list(range(done[0], done[0] + len(done)))


def test_folder_of_a_server_that_cannot_say_its_state_stays(tmp_path, shared):
    with shared_folder(tmp_path, shared) as back_end:
        back_end.start()
        with Original(tmp_path, "folder", "--fs", f"vhost-user:{back_end.socket},tag=shared,id=dev",
                      cmdline=f"rounds={ENDLESS} kept=40") as vm:
            check_went_on(vm)
            for command in (("save", vm.name, tmp_path / "snapshot"), ("save", vm.name, tmp_path / "snapshot", "--live"),
                            ("migrate", vm.name, f"unix:{tmp_path}/nobody"),
                            ("migrate", vm.name, f"unix:{tmp_path}/nobody", "--postcopy")):
                said = refused(vm.cli(*command, check=False))
                assert "'dev' is worked by another process" in said
                assert "has a state of its own that it cannot hand over (DEVICE_STATE)" in said
            check_went_on(vm)
