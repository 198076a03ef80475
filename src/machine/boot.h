/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Direct boot: puts a kernel, its initial RAM disk, its command line and the description of the
 * machine into guest memory, and says with which registers the first processor starts. Kernel files
 * are not trusted: every field that is used is checked, and an error names the field and its value.
 */
#ifndef GODWIT_MACHINE_BOOT_H
#define GODWIT_MACHINE_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "kvm/vcpu.h"
#include "machine/layout.h"
#include "memory/memory_map.h"

/* An open file that boot reads; it stays open, since every reset reads it again. */
struct boot_file {
	int fd;		  /* -1: none */
	const char *path; /* for messages; not owned */
};

struct boot_options {
	struct boot_file kernel;
	struct boot_file initrd;
	const char *cmdline; /* never NULL */
	const struct layout *layout;
	uint64_t rsdp; /* guest address of the ACPI root pointer */
};

/* Opens @path for reading as the @what of a message. */
struct error *boot_file_open(const char *path, const char *what, struct boot_file *file) MUST_CHECK;

/*
 * Loads the kernel, a bzImage or an ELF file with a PVH entry, told apart by their magic numbers.
 * Only while no vCPU runs. On error guest memory is partly written.
 */
struct error *boot_load(struct memory_map *map, const struct boot_options *options,
			struct kvm_boot_state *state) MUST_CHECK;

/*
 * Writes what stands in for firmware at the reset vector, 0xFFFF0: a real-mode routine that asks for a machine reset.
 * Linux jumps there to restart where ACPI is hardware-reduced and there is no EFI. After the ACPI tables, which share
 * the area.
 */
struct error *boot_write_reset_vector(struct memory_map *map) MUST_CHECK;

/* The two formats, for boot_load; @size is the file's. bzimage.c, pvh.c. */
struct error *bzimage_load(struct memory_map *map, const struct boot_options *options,
			   uint64_t size, struct kvm_boot_state *state) MUST_CHECK;
struct error *pvh_load(struct memory_map *map, const struct boot_options *options, uint64_t size,
		       struct kvm_boot_state *state) MUST_CHECK;

/* What both formats need. */

/* Reads exactly @size bytes at @offset; an error names the file, also when it ends before. */
struct error *boot_file_read(const struct boot_file *file, uint64_t offset, void *buffer,
			     size_t size) MUST_CHECK;
/* The same, into guest memory. */
struct error *boot_file_load(const struct boot_file *file, uint64_t offset, struct memory_map *map,
			     uint64_t address, uint64_t size) MUST_CHECK;
struct error *boot_write(struct memory_map *map, uint64_t address, const void *data,
			 uint64_t size) MUST_CHECK;
/* Clears guest memory, which may hold an earlier boot's data. */
struct error *boot_clear(struct memory_map *map, uint64_t address, uint64_t size) MUST_CHECK;
/*
 * Loads the initial RAM disk, if there is one, as high as possible below @top and not below
 * @bottom. *address and *size are 0 without one.
 */
struct error *boot_load_initrd(struct memory_map *map, const struct boot_options *options,
			       uint64_t bottom, uint64_t top, uint64_t *address,
			       uint64_t *size) MUST_CHECK;
/* Writes the command line with its terminating zero; at most @limit bytes with it. */
struct error *boot_write_cmdline(struct memory_map *map, const struct boot_options *options,
				 uint64_t limit) MUST_CHECK;
/* Writes a descriptor table with flat code (selector 0x10; 64-bit or 32-bit) and data (0x18). */
struct error *boot_write_gdt(struct memory_map *map, bool long_mode,
			     struct kvm_boot_state *state) MUST_CHECK;

#endif
