/* SPDX-License-Identifier: BSD-2-Clause */
/* What counts as the VMM's own memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "control/process_memory.h"

static const char *const smaps[] = {
    "55d0c0000000-55d0c0010000 r-xp 00000000 08:01 1234  /usr/bin/godwit",
    "Rss:                  64 kB",
    "Pss:                  32 kB",
    "Private_Clean:         0 kB",
    "Private_Dirty:         4 kB",
    "VmFlags: rd ex mr mw me",
    "7f0000000000-7f0008000000 rw-s 00000000 00:01 99     /memfd:memory0 (deleted)",
    "Rss:              131072 kB",
    "Pss:              131072 kB",
    "Private_Dirty:    131072 kB",
    "7f0008000000-7f0008001000 rw-p 00000000 00:00 0 ",
    "Rss:                   4 kB",
    "Pss:                   4 kB",
    "Private_Dirty:         4 kB",
};

static void parse(const struct process_range *ranges, size_t count, struct process_memory *memory)
{
	struct smaps_parser parser = {.ranges = ranges, .count = count};

	memset(memory, 0, sizeof(*memory));
	for (size_t i = 0; i < ARRAY_SIZE(smaps); i++)
		smaps_parse_line(&parser, smaps[i], memory);
}

static void guest_memory_is_left_out(void **state)
{
	const struct process_range guest = {0x7f0000000000, MIB(128)};
	struct process_memory memory;

	parse(&guest, 1, &memory);
	assert_int_equal(memory.resident, KIB(68));
	assert_int_equal(memory.proportional, KIB(36));
	assert_int_equal(memory.private, KIB(8));
}

static void without_ranges_everything_counts(void **state)
{
	struct process_memory memory;

	parse(NULL, 0, &memory);
	assert_int_equal(memory.resident, KIB(131072 + 68));
}

static void own_process_grows_by_what_it_touches(void **state)
{
	struct process_memory before, after, without;
	struct process_range range = {.size = MIB(8)};
	char *memory;

#ifdef __SANITIZE_THREAD__
	skip(); /* it keeps four bytes of its own for each */
#endif
	assert_null(process_memory_read(NULL, 0, &before));
	memory = mmap(NULL, MIB(8), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(memory, 1, MIB(8));
	range.start = (uintptr_t)memory;
	assert_null(process_memory_read(NULL, 0, &after));
	assert_null(process_memory_read(&range, 1, &without));
	assert_in_range(after.private - before.private, MIB(8), MIB(9));
	assert_true(without.private < before.private + MIB(1));
	assert_true(after.page_tables > 0);
	munmap(memory, MIB(8));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(guest_memory_is_left_out),
	    cmocka_unit_test(without_ranges_everything_counts),
	    cmocka_unit_test(own_process_grows_by_what_it_touches),
	};

	return cmocka_run_group_tests_name("process_memory", tests, NULL, NULL);
}
