/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front-end against back-ends of others, where they are installed: memory that comes and goes up
 * to their limit while a ring runs, and requests that are done in it.
 */
#include "cmocka_prelude.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/bytes.h"
#include "vhost_user/socket.h"
#include "vhost_user_pair.h"

#define QUEUE_SIZE 8
#define PIECES	   512 /* of HOT_UNIT */
#define SECTOR	   512

struct peer {
	pid_t process;
	char folder[40], socket[64], image[64];
	int ram, hot, kick, call;
	uint8_t *memory; /* the test's mapping of ram */
	struct vhost_user_memory *map;
	struct vhost_user_front_end *front;
	unsigned int descriptors;
	uint16_t done;
};

static void start_peer(struct peer *peer, char *const *command)
{
	peer->process = fork();
	if (!peer->process) {
		int null = open("/dev/null", O_RDWR);

		/* It ends with the test, however that ends, and keeps nobody waiting for its words. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, 1);
		dup2(null, 2);
		execvp(command[0], command);
		_exit(127);
	}
	assert_true(peer->process > 0);
}

/* Connects to a peer that has only begun to start; false: it has ended. */
static bool connect_peer(struct peer *peer, int *fd)
{
	for (;;) {
		const struct timespec pause = {0, 10 * NS_PER_MS};
		struct error *error =
		    vhost_user_connect(peer->socket, clock_monotonic_ns() + NS_PER_SECOND, fd);

		if (!error)
			return true;
		error_free(error);
		if (waitpid(peer->process, NULL, WNOHANG)) {
			peer->process = 0;
			return false;
		}
		nanosleep(&pause, NULL);
	}
}

static void make_image(const struct peer *peer)
{
	int fd = open(peer->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	for (unsigned int i = 0; i < 64; i++) {
		uint8_t sector[SECTOR];

		memset(sector, (int)i + 1, sizeof(sector));
		assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
	}
	close(fd);
}

static void end_peer(struct peer *peer)
{
	vhost_user_front_end_close(peer->front);
	vhost_user_memory_destroy(peer->map);
	munmap(peer->memory, RAM_SIZE);
	if (peer->process) {
		kill(peer->process, SIGTERM);
		waitpid(peer->process, NULL, 0);
	}
	unlink(peer->socket);
	unlink(peer->image);
	rmdir(peer->folder);
	close(peer->ram);
	close(peer->hot);
	close(peer->kick);
	close(peer->call);
	assert_int_equal(open_descriptors(), peer->descriptors);
}

static void prepare(struct peer *peer)
{
	strcpy(peer->folder, "/tmp/vhost-user-XXXXXX");
	assert_non_null(mkdtemp(peer->folder));
	snprintf(peer->socket, sizeof(peer->socket), "%s/socket", peer->folder);
	snprintf(peer->image, sizeof(peer->image), "%s/image", peer->folder);
	make_image(peer);
	peer->descriptors = open_descriptors();
	peer->ram = memory_file(RAM_SIZE);
	peer->hot = memory_file(PIECES * HOT_UNIT);
	peer->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	peer->call = eventfd(0, EFD_CLOEXEC);
	peer->memory = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, peer->ram, 0);
	assert_ptr_not_equal(peer->memory, MAP_FAILED);
	peer->map = vhost_user_memory_create();
	assert_no_error(vhost_user_memory_add_block(
	    peer->map, &(struct vhost_user_block){{0, RAM_SIZE, RAM_USER, 0}, peer->ram, 0}));
	assert_no_error(vhost_user_memory_add_block(
	    peer->map, &(struct vhost_user_block){
			   {HOT_GUEST, PIECES * HOT_UNIT, HOT_USER, 0}, peer->hot, HOT_UNIT}));
}

static void open_peer(struct peer *peer, int fd)
{
	struct vhost_user_front_end_options options = front_options();

	options.time_limit_ns = 60 * NS_PER_SECOND;
	options.name = peer->socket;
	assert_no_error(vhost_user_front_end_open(fd, &options, &peer->front));
	assert_no_error(vhost_user_front_end_set_features(peer->front, 1ULL << 32));
	assert_no_error(vhost_user_front_end_begin_memory(peer->front, peer->map));
}

/* --- Disks ------------------------------------------------------------------------------------- */

static void put_descriptor(const struct peer *peer, unsigned int index, uint64_t address,
			   uint32_t length, uint16_t flags)
{
	uint8_t *bytes = peer->memory + 4096 + 16 * index;

	put_le64(bytes, address);
	put_le32(bytes + 8, length);
	put_le16(bytes + 12, flags | (index < 2));
	put_le16(bytes + 14, (uint16_t)(index + 1));
}

/* Reads @sector into guest memory at @address, with the ring at 4096 and the request's header at 0. */
static void read_sector(struct peer *peer, uint64_t sector, uint64_t address)
{
	uint8_t *available = peer->memory + 8192, *used = peer->memory + 12288;
	const uint64_t one = 1;
	uint64_t value;

	put_le32(peer->memory, 0);
	put_le64(peer->memory + 8, sector);
	peer->memory[16] = 0xff;
	put_descriptor(peer, 0, 0, 16, 0);
	put_descriptor(peer, 1, address, SECTOR, 2);
	put_descriptor(peer, 2, 16, 1, 2);
	put_le16(available + 4 + 2 * (peer->done % QUEUE_SIZE), 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	put_le16(available + 2, ++peer->done);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	assert_int_equal(write(peer->kick, &one, sizeof(one)), sizeof(one));
	while (get_le16(used + 2) != peer->done) {
		struct pollfd item = {peer->call, POLLIN, 0};

		/* The back-end may have made it non-blocking. */
		assert_int_equal(poll(&item, 1, 30000), 1);
		assert_int_equal(read(peer->call, &value, sizeof(value)), sizeof(value));
	}
	assert_int_equal(peer->memory[16], 0);
}

static void check_disk(struct peer *peer)
{
	struct vhost_user_ring_setup setup = {QUEUE_SIZE, 0, 4096, 8192, 12288, 0, 0, -1};
	uint32_t slots = vhost_user_front_end_slots(peer->front), base;
	uint8_t config[8], sector[SECTOR];

	assert_no_error(vhost_user_front_end_get_config(peer->front, 0, 8, config));
	assert_int_equal(get_le64(config), 64);
	setup.kick = peer->kick;
	setup.call = peer->call;
	assert_no_error(vhost_user_front_end_start_ring(peer->front, 0, &setup));
	assert_no_error(vhost_user_front_end_enable_ring(peer->front, 0, true));
	read_sector(peer, 5, 65536);
	assert_int_equal(peer->memory[65536 + 511], 6);
	/* Every second piece: more than there are slots. All of them can be read into. */
	for (unsigned int i = 0; i < PIECES; i += 2) {
		struct vhost_user_range piece = {HOT_GUEST + i * HOT_UNIT, HOT_UNIT};

		assert_no_error(
		    vhost_user_front_end_change_memory(peer->front, NULL, 0, &piece, 1));
		read_sector(peer, i % 64, piece.guest_address + HOT_UNIT - SECTOR);
		assert_int_equal(pread(peer->hot, sector, SECTOR, (i + 1) * HOT_UNIT - SECTOR),
				 SECTOR);
		assert_int_equal(sector[0], i % 64 + 1);
		assert_true(vhost_user_memory_held(peer->map) <= slots);
	}
	assert_true(vhost_user_memory_held(peer->map) > slots / 2);
	for (unsigned int i = 0; i < PIECES; i += 2) {
		struct vhost_user_range piece = {HOT_GUEST + i * HOT_UNIT, HOT_UNIT};

		assert_no_error(
		    vhost_user_front_end_change_memory(peer->front, &piece, 1, NULL, 0));
		read_sector(peer, i % 64, 65536);
	}
	assert_int_equal(vhost_user_memory_held(peer->map), 1);
	assert_no_error(vhost_user_front_end_stop_ring(peer->front, 0, &base));
	assert_int_equal(base, peer->done);
}

static void test_qemu_storage_daemon(void **unused)
{
	struct peer peer = {0};
	char disk[128], export[192];
	char *const command[] = {
	    "qemu-storage-daemon", "--blockdev", disk, "--export", export, NULL};
	int fd;

	prepare(&peer);
	snprintf(disk, sizeof(disk), "driver=file,node-name=f,filename=%s", peer.image);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,addr.type=unix,addr.path=%s,node-name=f,num-queues=2",
		 peer.socket);
	start_peer(&peer, command);
	if (!connect_peer(&peer, &fd)) {
		end_peer(&peer);
		skip();
	}
	open_peer(&peer, fd);
	check_disk(&peer);
	end_peer(&peer);
}

/* As a back-end that asks for a reply to everything would see it, without acknowledgements. */
static void test_qemu_storage_daemon_logs(void **unused)
{
	struct vhost_user_ring_setup setup = {QUEUE_SIZE, 0, 4096, 8192, 12288, 0, 0, -1};
	struct peer peer = {0};
	char disk[128], export[192];
	char *const command[] = {
	    "qemu-storage-daemon", "--blockdev", disk, "--export", export, NULL};
	uint8_t bits[128] = {0};
	int fd, log;

	prepare(&peer);
	snprintf(disk, sizeof(disk), "driver=file,node-name=f,filename=%s", peer.image);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,addr.type=unix,addr.path=%s,node-name=f", peer.socket);
	start_peer(&peer, command);
	if (!connect_peer(&peer, &fd)) {
		end_peer(&peer);
		skip();
	}
	open_peer(&peer, fd);
	setup.kick = peer.kick;
	setup.call = peer.call;
	assert_no_error(vhost_user_front_end_start_ring(peer.front, 0, &setup));
	assert_no_error(vhost_user_front_end_enable_ring(peer.front, 0, true));
	log = memory_file(4096);
	assert_no_error(vhost_user_front_end_start_log(peer.front, log, 0, 4096));
	read_sector(&peer, 3, 20 * 4096);
	assert_int_equal(pread(log, bits, sizeof(bits), 0), sizeof(bits));
	assert_int_equal(bits[2] & 1U << 4, 1U << 4); /* the sector, at page 20 */
	assert_int_equal(bits[0] & 1U << 3, 1U << 3); /* the used ring, at page 3 */
	assert_no_error(vhost_user_front_end_stop_log(peer.front));
	assert_no_error(vhost_user_front_end_stop_ring(peer.front, 0, NULL));
	close(log);
	end_peer(&peer);
}

/* --- Files ------------------------------------------------------------------------------------- */

static void test_virtiofsd(void **unused)
{
	struct peer peer = {0};
	char path[96], source[96];
	char *const command[] = {"/usr/lib/qemu/virtiofsd", path, "-o", source, "-o",
				 "sandbox=chroot",	    NULL};
	uint32_t slots;
	int fd;

	if (geteuid())
		skip();
	prepare(&peer);
	snprintf(path, sizeof(path), "--socket-path=%s", peer.socket);
	snprintf(source, sizeof(source), "source=%s", peer.folder);
	start_peer(&peer, command);
	if (!connect_peer(&peer, &fd)) {
		end_peer(&peer);
		skip();
	}
	open_peer(&peer, fd);
	slots = vhost_user_front_end_slots(peer.front);
	for (unsigned int i = 0; i < PIECES; i += 2) {
		struct vhost_user_range piece = {HOT_GUEST + i * HOT_UNIT, HOT_UNIT};

		assert_no_error(vhost_user_front_end_change_memory(peer.front, NULL, 0, &piece, 1));
		assert_true(vhost_user_memory_held(peer.map) <= slots);
	}
	end_peer(&peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_qemu_storage_daemon),
	    cmocka_unit_test(test_qemu_storage_daemon_logs),
	    cmocka_unit_test(test_virtiofsd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
