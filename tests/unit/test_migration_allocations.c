/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A transfer that is under way allocates and maps nothing, on either end: not for pages, in whatever rounds, not
 * for zstd, not for chunks of device state, requested pages or credit, not in post-copy. With TLS only GnuTLS does,
 * for its records. This program's malloc and mmap count, unless a library of GnuTLS has called them.
 */
#include "postcopy_pair.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "migration_tls_pair.h"

#define DEVICES 2

#ifdef __SANITIZE_ADDRESS__
/* The sanitizer's malloc is in the place of this one. */
#define COUNTED 0
static bool counting;
static uint64_t allocations;
#else
#define COUNTED 1

/* glibc's own, which stay where they are when a program has others. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *bytes, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static bool counting; /* atomic */
static uint64_t allocations;

/* Where the code of GnuTLS and of what it consists of is. */
static struct {
	uintptr_t start, end;
} foreign[8];
static size_t foreign_count;

static int find_foreign(struct dl_phdr_info *info, size_t size, void *context)
{
	static const char *const names[] = {"libgnutls.", "libnettle.", "libhogweed.", "libgmp."};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (int n = 0; strstr(info->dlpi_name, names[i]) && n < info->dlpi_phnum; n++) {
			const ElfW(Phdr) *part = &info->dlpi_phdr[n];

			if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
				continue;
			assert_true(foreign_count < ARRAY_SIZE(foreign));
			foreign[foreign_count].start = info->dlpi_addr + part->p_vaddr;
			foreign[foreign_count++].end =
			    info->dlpi_addr + part->p_vaddr + part->p_memsz;
		}
	return 0;
}

static void count(const void *caller)
{
	uintptr_t from = (uintptr_t)caller;

	if (!__atomic_load_n(&counting, __ATOMIC_ACQUIRE))
		return;
	for (size_t i = 0; i < foreign_count; i++)
		if (from >= foreign[i].start && from < foreign[i].end)
			return;
	__atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
}

#define COUNT() count(__builtin_return_address(0))

void *malloc(size_t size)
{
	COUNT();
	return __libc_malloc(size);
}

void *calloc(size_t number, size_t size)
{
	COUNT();
	return __libc_calloc(number, size);
}

void *realloc(void *bytes, size_t size)
{
	COUNT();
	return __libc_realloc(bytes, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	COUNT();
	return __libc_memalign(alignment, size);
}

void *memalign(size_t alignment, size_t size)
{
	COUNT();
	return __libc_memalign(alignment, size);
}

int posix_memalign(void **bytes, size_t alignment, size_t size)
{
	COUNT();
	*bytes = __libc_memalign(alignment, size);
	return *bytes ? 0 : ENOMEM;
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	COUNT();
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): what the kernel gives */
	return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}
#endif

struct transfer {
	struct pair_memory here, there;
	struct migration_link *source, *destination;
	struct migration_sender *sender;
	struct migration_receiver *receiver;
	uint64_t loaded; /* atomic */
};

static struct error *load(void *context, uint32_t device, const void *bytes, size_t size, bool last)
{
	struct transfer *transfer = context;

	__atomic_fetch_add(&transfer->loaded, size, __ATOMIC_RELEASE);
	return NULL;
}

static void ended(void *context, const struct error *error)
{
}

static const struct migration_receiver_ops ops = {.load = load, .ended = ended};

static void *take_credits(void *context)
{
	struct transfer *transfer = context;
	struct migration_message message;
	struct error *error;

	while (!(error = migration_link_receive(transfer->source, &message)))
		error_free(migration_sender_credit(transfer->sender, &message));
	error_free(error);
	return NULL;
}

static void begin(struct transfer *transfer, bool zstd, bool tls)
{
	struct migration_receiver_options receiver_options = {.workers = 2, .devices = DEVICES};
	struct migration_sender_options options = {.devices = DEVICES, .zstd = zstd};

	memset(transfer, 0, sizeof(*transfer));
	pair_memory_create(&transfer->here);
	pair_memory_create(&transfer->there);
	if (tls)
		pair_links_tls(4, true, &transfer->source, &transfer->destination);
	else
		pair_links(4, true, &transfer->source, &transfer->destination);
	assert_no_error(migration_sender_create(transfer->source, transfer->here.map, &options,
						&transfer->sender));
	assert_no_error(migration_receiver_create(transfer->destination, transfer->there.map,
						  &receiver_options, &ops, transfer,
						  &transfer->receiver));
	assert_no_error(migration_receiver_start(transfer->receiver));
}

static void end(struct transfer *transfer)
{
	migration_sender_destroy(transfer->sender);
	migration_link_close(transfer->source);
	migration_receiver_destroy(transfer->receiver);
	migration_link_close(transfer->destination);
	pair_memory_destroy(&transfer->here);
	pair_memory_destroy(&transfer->there);
}

/* Dense and sparse, content and zeros, compressible and not, then states and requested pages. */
static void transfer_some(struct transfer *transfer, uint8_t version)
{
	static uint8_t state[3 * WIRE_CHUNK_MAX];
	uint64_t round, loaded = __atomic_load_n(&transfer->loaded, __ATOMIC_ACQUIRE);
	struct pair_memory *here = &transfer->here;
	struct migration_received received;
	struct migration_sent sent;

	for (int block = 0; block < 2; block++)
		for (uint64_t page = 0; page < PAIR_SIZE / PAIR_PAGE; page += page < 900 ? 1 : 37) {
			if (page % 50 < 40)
				pair_fill(here, block, page, version, page % 500 < 250);
			else
				memset(pair_page(here, block, page), 0, PAIR_PAGE);
			pair_mark(here, block, page, 1);
		}
	assert_no_error(migration_sender_pages(transfer->sender, 0, 100, 300, here->pending[0]));
	assert_no_error(migration_sender_round(transfer->sender, here->pending, version == 1));
	assert_no_error(migration_sender_emit(transfer->sender, version % DEVICES, state,
					      sizeof(state), false));
	assert_no_error(migration_sender_end_round(transfer->sender, &round));
	do { /* barriers say nothing about requested pages */
		usleep(100);
		migration_sender_progress(transfer->sender, &sent);
		migration_receiver_progress(transfer->receiver, &received);
	} while (received.round < round || received.pages < sent.pages ||
		 __atomic_load_n(&transfer->loaded, __ATOMIC_ACQUIRE) < loaded + sizeof(state));
}

static void check(bool zstd, bool tls)
{
	struct transfer transfer;
	pthread_t credits;

	if (!COUNTED)
		skip();
	begin(&transfer, zstd, tls);
	assert_int_equal(pthread_create(&credits, NULL, take_credits, &transfer), 0);
	/* Each thread has begun, and found the memory that it works with. */
	for (uint8_t version = 1; version < 4; version++)
		transfer_some(&transfer, version);
	allocations = 0;
	__atomic_store_n(&counting, true, __ATOMIC_RELEASE);
	for (uint8_t version = 4; version < 12; version++)
		transfer_some(&transfer, version);
	__atomic_store_n(&counting, false, __ATOMIC_RELEASE);
	assert_int_equal(allocations, 0);
	pair_assert_same(&transfer.here, &transfer.there);
	migration_link_cancel(transfer.source);
	pthread_join(credits, NULL);
	end(&transfer);
}

static void test_transfer_allocates_nothing(void **unused)
{
	check(false, false);
}

static void test_transfer_with_zstd_allocates_nothing(void **unused)
{
	check(true, false);
}

static void test_transfer_with_tls_allocates_nothing_but_its_records(void **unused)
{
	check(false, true);
}

static void test_transfer_with_tls_and_zstd_allocates_nothing_but_its_records(void **unused)
{
	check(true, true);
}

/* Faults, requests, pages that come because of them and others; a discard. */
static void test_postcopy_allocates_nothing(void **unused)
{
	struct move move;

	if (!COUNTED)
		skip();
	move_create(&move, 2);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	/* Each thread has begun. */
	for (uint64_t page = 0; page < 50; page++)
		assert_true(move_is_same(&move, 0, page));
	allocations = 0;
	__atomic_store_n(&counting, true, __ATOMIC_RELEASE);
	for (uint64_t page = 50; page < 600; page++)
		assert_true(move_is_same(&move, page % 2, page));
	assert_int_equal(ram_block_discard(move.there.blocks[1], 0, 40 * PAIR_PAGE), 0);
	move_stream(&move);
	for (uint64_t page = 2050; page > 600; page -= 3)
		assert_true(move_is_same(&move, page % 2, page));
	move_wait(&move);
	__atomic_store_n(&counting, false, __ATOMIC_RELEASE);
	assert_int_equal(allocations, 0);
	move_finish(&move);
	move_destroy(&move);
}

/* Or the others would show nothing. */
static void test_allocations_are_counted(void **unused)
{
	void *volatile bytes, *mapped;

	if (!COUNTED)
		skip();
	allocations = 0;
	counting = true;
	bytes = malloc(100);
	mapped = mmap(NULL, PAIR_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	counting = false;
	free(bytes);
	munmap(mapped, PAIR_PAGE);
	assert_int_equal(allocations, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_allocations_are_counted),
	    cmocka_unit_test(test_transfer_allocates_nothing),
	    cmocka_unit_test(test_transfer_with_zstd_allocates_nothing),
	    cmocka_unit_test(test_transfer_with_tls_allocates_nothing_but_its_records),
	    cmocka_unit_test(test_transfer_with_tls_and_zstd_allocates_nothing_but_its_records),
	    cmocka_unit_test(test_postcopy_allocates_nothing),
	};

	signal(SIGPIPE, SIG_IGN);
#if COUNTED
	dl_iterate_phdr(find_foreign, NULL);
#endif
	return cmocka_run_group_tests(tests, NULL, NULL);
}
