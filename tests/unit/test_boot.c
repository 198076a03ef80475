/* SPDX-License-Identifier: BSD-2-Clause */
/* Kernels in both formats, good and malformed ones, loaded into a guest of 64 MiB. */
#include "cmocka_prelude.h"
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "machine/boot.h"

#define LOW_END	    MIB(64)
#define KERNEL_SIZE 0x3000

struct fixture {
	struct ram_block *block;
	struct memory_map *map;
	struct layout layout;
	struct boot_options options;
	struct kvm_boot_state boot;
	uint8_t file[KERNEL_SIZE];
};

static int setup(void **state)
{
	const struct ram_backing_options backing = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct fixture *f = calloc(1, sizeof(*f));
	struct memory_region *region;

	assert_non_null(f);
	assert_no_error(ram_block_create("ram", &backing, LOW_END, &f->block));
	assert_no_error(memory_map_create(&f->map));
	assert_no_error(memory_map_add(f->map, 0, LOW_END, f->block, 0, 0, &region));
	f->layout.low_end = LOW_END;
	f->layout.high_end = LAYOUT_4G;
	f->options = (struct boot_options){
	    .kernel = {.fd = memfd_create("kernel", 0), .path = "kernel"},
	    .initrd = {.fd = -1, .path = "initrd"},
	    .cmdline = "console=hvc0",
	    .layout = &f->layout,
	    .rsdp = 0xe0000,
	};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->options.kernel.fd);
	if (f->options.initrd.fd >= 0)
		close(f->options.initrd.fd);
	memory_map_destroy(f->map);
	ram_block_destroy(f->block);
	free(f);
	return 0;
}

/* A bzImage with one sector of set-up after the boot sector and 16 bytes repeated as the kernel. */
static void make_bzimage(struct fixture *f)
{
	memset(f->file, 0, sizeof(f->file));
	f->file[0x1f1] = 1;
	put_le32(f->file + 0x1f4, (KERNEL_SIZE - 1024) / 16);
	put_le16(f->file + 0x1fe, 0xaa55);
	f->file[0x201] = 0x66;
	put_le32(f->file + 0x202, 0x53726448);
	put_le16(f->file + 0x206, 0x20f);
	f->file[0x211] = 1;
	put_le32(f->file + 0x22c, 0x7fffffff);
	put_le32(f->file + 0x230, MIB(2));
	f->file[0x234] = 1;
	put_le16(f->file + 0x236, 1);
	put_le32(f->file + 0x238, 2047);
	put_le64(f->file + 0x258, MIB(16));
	put_le32(f->file + 0x260, MIB(8));
	memset(f->file + 1024, 0xab, KERNEL_SIZE - 1024);
}

/* An ELF64 file with one loaded segment at 1 MiB and the entry note. */
static void make_elf(struct fixture *f)
{
	uint8_t *header = f->file, *load = f->file + 64, *note = load + 56, *body = f->file + 0x200;

	memset(f->file, 0, sizeof(f->file));
	memcpy(header,
	       "\x7f"
	       "ELF\x02\x01\x01",
	       7);
	put_le16(header + 16, 2);
	put_le16(header + 18, 62);
	put_le64(header + 32, 64);
	put_le16(header + 54, 56);
	put_le16(header + 56, 2);
	put_le32(load, 1);
	put_le64(load + 8, 0x1000);
	put_le64(load + 24, MIB(1));
	put_le64(load + 32, 0x1000);
	put_le64(load + 40, 0x3000);
	put_le32(note, 4);
	put_le64(note + 8, 0x200);
	put_le64(note + 32, 20);
	put_le32(body, 4);
	put_le32(body + 4, 4);
	put_le32(body + 8, 18);
	memcpy(body + 12, "Xen", 4);
	put_le32(body + 16, MIB(1) + 0x10);
	memset(f->file + 0x1000, 0xcd, 0x1000);
}

static struct error *load(struct fixture *f, size_t size)
{
	assert_int_equal(ftruncate(f->options.kernel.fd, 0), 0);
	assert_int_equal(pwrite(f->options.kernel.fd, f->file, size, 0), (ssize_t)size);
	return boot_load(f->map, &f->options, &f->boot);
}

static void give_initrd(struct fixture *f, size_t size)
{
	f->options.initrd.fd = memfd_create("initrd", 0);
	assert_int_equal(ftruncate(f->options.initrd.fd, (off_t)size), 0);
	assert_int_equal(pwrite(f->options.initrd.fd, "initrd", 6, 0), 6);
}

static uint8_t byte_at(struct fixture *f, uint64_t address)
{
	uint8_t byte = 0;

	assert_true(memory_read(f->map, address, &byte, 1));
	return byte;
}

static uint64_t word_at(struct fixture *f, uint64_t address, size_t size)
{
	uint8_t bytes[8] = {0};

	assert_true(memory_read(f->map, address, bytes, size));
	return get_le64(bytes);
}

static void a_bzimage_goes_to_its_preferred_address(void **state)
{
	struct fixture *f = *state;

	make_bzimage(f);
	assert_no_error(load(f, KERNEL_SIZE));
	assert_true(f->boot.long_mode);
	assert_int_equal(f->boot.entry, MIB(16) + 0x200);
	assert_int_equal(byte_at(f, MIB(16)), 0xab);
	assert_int_equal(f->boot.rsi, LAYOUT_BOOT_PARAMS);
}

static void boot_parameters_tell_of_memory_and_acpi(void **state)
{
	struct fixture *f = *state;
	char cmdline[13];

	make_bzimage(f);
	assert_no_error(load(f, KERNEL_SIZE));
	assert_int_equal(word_at(f, f->boot.rsi + 0x70, 8), 0xe0000);
	assert_int_equal(byte_at(f, f->boot.rsi + 0x1e8), 5);
	assert_int_equal(word_at(f, f->boot.rsi + 0x2d0 + 40, 8), MIB(1));
	assert_int_equal(word_at(f, f->boot.rsi + 0x2d0 + 48, 8), LOW_END - MIB(1));
	assert_true(memory_read(f->map, word_at(f, f->boot.rsi + 0x228, 4), cmdline, 13));
	assert_string_equal(cmdline, "console=hvc0");
}

static void page_tables_map_the_kernel_one_to_one(void **state)
{
	struct fixture *f = *state;
	uint64_t table;

	make_bzimage(f);
	assert_no_error(load(f, KERNEL_SIZE));
	table = word_at(f, f->boot.cr3, 8) & ~0xfffULL;
	table = word_at(f, table, 8) & ~0xfffULL;
	assert_int_equal(word_at(f, table + 8 * 8, 8) & ~0xfffULL, MIB(16));
}

static void a_small_guest_gets_a_relocatable_kernel_lower(void **state)
{
	struct fixture *f = *state;

	f->layout.low_end = MIB(12);
	make_bzimage(f);
	assert_no_error(load(f, KERNEL_SIZE));
	assert_int_equal(f->boot.entry, MIB(2) + 0x200);
	f->file[0x234] = 0;
	assert_error_with(load(f, KERNEL_SIZE), "give the guest more memory");
}

static void the_initial_ram_disk_lies_high(void **state)
{
	struct fixture *f = *state;
	char text[6];

	give_initrd(f, 5000);
	make_bzimage(f);
	assert_no_error(load(f, KERNEL_SIZE));
	assert_int_equal(word_at(f, f->boot.rsi + 0x218, 4), LOW_END - 8192);
	assert_int_equal(word_at(f, f->boot.rsi + 0x21c, 4), 5000);
	assert_true(memory_read(f->map, LOW_END - 8192, text, 6));
	assert_memory_equal(text, "initrd", 6);
}

static void an_initial_ram_disk_must_not_reach_into_the_kernel(void **state)
{
	struct fixture *f = *state;

	give_initrd(f, MIB(41));
	make_bzimage(f);
	assert_error_with(load(f, KERNEL_SIZE), "initrd");
}

static void a_command_line_that_is_too_long_is_refused(void **state)
{
	struct fixture *f = *state;

	make_bzimage(f);
	put_le32(f->file + 0x238, 11);
	assert_error_with(load(f, KERNEL_SIZE), "takes 11");
	put_le32(f->file + 0x238, 12);
	assert_no_error(load(f, KERNEL_SIZE));
}

static void malformed_bzimages_are_refused(void **state)
{
	static const struct {
		size_t offset;
		uint64_t value;
		uint8_t size;
		const char *message;
	} cases[] = {
	    {0x1fe, 0, 2, "neither"},
	    {0x202, 0, 4, "neither"},
	    {0x206, 0x20b, 2, "version"},
	    {0x236, 0, 2, "64-bit"},
	    {0x211, 0, 1, "64-bit"},
	    {0x1f4, 0, 4, "syssize"},
	    {0x1f4, UINT32_MAX, 4, "syssize"},
	    {0x1f1, 255, 1, "syssize"},
	    {0x260, 16, 4, "init_size"},
	    {0x260, UINT32_MAX, 4, "more memory"},
	    {0x230, 0, 4, "kernel_alignment"},
	    {0x230, 3, 4, "kernel_alignment"},
	    {0x230, 0x80000000, 4, "kernel_alignment"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t bytes[8];

		make_bzimage(f);
		put_le64(bytes, cases[i].value);
		memcpy(f->file + cases[i].offset, bytes, cases[i].size);
		assert_error_with(load(f, KERNEL_SIZE), cases[i].message);
	}
}

static void a_kernel_that_is_cut_short_is_refused(void **state)
{
	struct fixture *f = *state;

	make_bzimage(f);
	assert_error_with(load(f, KERNEL_SIZE - 1), "whole");
	assert_error_with(load(f, 100), "no kernel");
	assert_error_with(load(f, 0), "no kernel");
	make_elf(f);
	assert_error_with(load(f, 0x1800), "outside the file");
	assert_error_with(load(f, 40), "too short");
}

static void an_elf_kernel_starts_at_its_note(void **state)
{
	struct fixture *f = *state;

	make_elf(f);
	assert_no_error(load(f, KERNEL_SIZE));
	assert_false(f->boot.long_mode);
	assert_int_equal(f->boot.entry, MIB(1) + 0x10);
	assert_int_equal(byte_at(f, MIB(1)), 0xcd);
	assert_int_equal(f->boot.rbx, LAYOUT_BOOT_START_INFO);
	assert_int_equal(word_at(f, f->boot.rbx, 4), 0x336ec578);
	assert_int_equal(word_at(f, f->boot.rbx + 32, 8), 0xe0000);
}

static void what_a_segment_has_beyond_the_file_is_cleared(void **state)
{
	struct fixture *f = *state;

	make_elf(f);
	/* As after an earlier boot. */
	assert_true(memory_write(f->map, MIB(1) + 0x2fff, "x", 1));
	assert_no_error(load(f, KERNEL_SIZE));
	assert_int_equal(byte_at(f, MIB(1) + 0x2fff), 0);
}

static void pvh_gets_the_initial_ram_disk_as_a_module(void **state)
{
	struct fixture *f = *state;
	uint64_t module;

	give_initrd(f, 4096);
	make_elf(f);
	assert_no_error(load(f, KERNEL_SIZE));
	assert_int_equal(word_at(f, f->boot.rbx + 12, 4), 1);
	module = word_at(f, f->boot.rbx + 16, 8);
	assert_int_equal(word_at(f, module, 8), LOW_END - 4096);
	assert_int_equal(word_at(f, module + 8, 8), 4096);
}

static void malformed_elf_files_are_refused(void **state)
{
	static const struct {
		size_t offset;
		uint64_t value;
		uint8_t size;
		const char *message;
	} cases[] = {
	    {4, 3, 1, "class"},
	    {5, 2, 1, "encoding"},
	    {16, 1, 2, "e_type"},
	    {18, 40, 2, "e_machine"},
	    {54, 55, 2, "e_phentsize"},
	    {56, 0, 2, "e_phnum"},
	    {56, 0xffff, 2, "e_phnum"},
	    {32, UINT64_MAX - 8, 8, "e_phoff"},
	    {64 + 8, UINT64_MAX, 8, "p_offset"},
	    {64 + 32, UINT64_MAX, 8, "p_offset"},
	    {64 + 40, 0xfff, 8, "p_filesz"},
	    {64 + 40, UINT64_MAX, 8, "p_paddr"},
	    {64 + 24, 0x9000, 8, "p_paddr"},
	    {64 + 24, LOW_END, 8, "p_paddr"},
	    {64 + 24, UINT64_MAX, 8, "p_paddr"},
	    {0x208, 17, 4, "without a PVH entry"},
	    {0x200, UINT32_MAX, 4, "without a PVH entry"},
	    {0x204, UINT32_MAX, 4, "without a PVH entry"},
	    {0x210, 0x10, 4, "no loaded segment"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t bytes[8];

		make_elf(f);
		put_le64(bytes, cases[i].value);
		memcpy(f->file + cases[i].offset, bytes, cases[i].size);
		assert_error_with(load(f, KERNEL_SIZE), cases[i].message);
	}
}

static void loading_crosses_the_border_between_nodes(void **state)
{
	struct fixture *f = *state;
	struct memory_region *region;
	struct memory_map *map;

	assert_no_error(memory_map_create(&map));
	assert_no_error(memory_map_add(map, 0, MIB(1) + 0x800, f->block, 0, 0, &region));
	assert_no_error(memory_map_add(map, MIB(1) + 0x800, MIB(8), f->block, MIB(16), 0, &region));
	memory_map_destroy(f->map);
	f->map = map;
	make_elf(f);
	assert_no_error(load(f, KERNEL_SIZE));
	assert_int_equal(byte_at(f, MIB(1) + 0x7ff), 0xcd);
	assert_int_equal(byte_at(f, MIB(1) + 0x800), 0xcd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_bzimage_goes_to_its_preferred_address),
	    TEST(boot_parameters_tell_of_memory_and_acpi),
	    TEST(page_tables_map_the_kernel_one_to_one),
	    TEST(a_small_guest_gets_a_relocatable_kernel_lower),
	    TEST(the_initial_ram_disk_lies_high),
	    TEST(an_initial_ram_disk_must_not_reach_into_the_kernel),
	    TEST(a_command_line_that_is_too_long_is_refused),
	    TEST(malformed_bzimages_are_refused),
	    TEST(a_kernel_that_is_cut_short_is_refused),
	    TEST(an_elf_kernel_starts_at_its_note),
	    TEST(what_a_segment_has_beyond_the_file_is_cleared),
	    TEST(pvh_gets_the_initial_ram_disk_as_a_module),
	    TEST(malformed_elf_files_are_refused),
	    TEST(loading_crosses_the_border_between_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
