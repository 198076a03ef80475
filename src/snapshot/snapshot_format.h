/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The numbers of snapshot files. docs/snapshot-format.md is the whole description: QEMU's stream of
 * sections (QEVM version 3) with its mapped-ram layout of RAM, and sections of our own beside it.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_FORMAT_H
#define GODWIT_SNAPSHOT_SNAPSHOT_FORMAT_H

#define SNAPSHOT_PAGE_SIZE	 4096
#define SNAPSHOT_PAGES_ALIGNMENT (1 << 20)   /* of each block's pages in the file */
#define SNAPSHOT_CHUNK_SIZE	 (256 << 10) /* what one checksum covers */
#define SNAPSHOT_CHUNK_PAGES	 (SNAPSHOT_CHUNK_SIZE / SNAPSHOT_PAGE_SIZE)
#define SNAPSHOT_NAME_MAX	 127 /* of a block or a section; QEMU's script reads a signed byte */

/* Limits that keep what a reader allocates, and how long it takes, within reason. */
#define SNAPSHOT_BLOCKS_MAX	   256
#define SNAPSHOT_RAM_MAX	   (1ULL << 44) /* bytes of all blocks together: 16 TiB */
#define SNAPSHOT_SECTIONS_MAX	   4096
#define SNAPSHOT_SECTIONS_SIZE_MAX (64 << 20) /* bytes of the sections in front of the RAM */
#define SNAPSHOT_CHAIN_MAX	   64	      /* files that build on one another */
#define SNAPSHOT_BASE_PATH_MAX	   4095

/* The stream (QEMU: migration/savevm.h). */
#define QEVM_MAGIC		      0x5145564d
#define QEVM_VERSION		      3
#define QEVM_EOF		      0x00
#define QEVM_SECTION_START	      0x01
#define QEVM_SECTION_PART	      0x02
#define QEVM_SECTION_END	      0x03
#define QEVM_SECTION_FULL	      0x04
#define QEVM_SUBSECTION		      0x05
#define QEVM_DESCRIPTION	      0x06
#define QEVM_CONFIGURATION	      0x07
#define QEVM_COMMAND		      0x08
#define QEVM_FOOTER		      0x7e
#define QEVM_COMMAND_SWITCHOVER_START 11

/* The RAM section (QEMU: migration/ram.c). */
#define RAM_SECTION_NAME       "ram"
#define RAM_SECTION_VERSION    4
#define RAM_FLAG_MEM_SIZE      0x004
#define RAM_FLAG_EOS	       0x010
#define RAM_FLAG_MULTIFD_FLUSH 0x200
#define RAM_FLAG_CHUNK	       0x400 /* ours, in sequential streams */
#define MAPPED_RAM_VERSION     1
#define MAPPED_RAM_HEADER_SIZE 28 /* version 4, page size 8, bitmap offset 8, pages offset 8 */

/* What is ours. */
#define SNAPSHOT_MACHINE	   "godwit-1"
#define SNAPSHOT_MACHINE_FAMILY	   "godwit-"
#define SNAPSHOT_CAPABILITY_MAPPED "mapped-ram"
#define SNAPSHOT_CAPABILITY_BASE   "x-godwit-base"   /* unknown to others, who refuse the file */
#define SNAPSHOT_CAPABILITY_STREAM "x-godwit-stream" /* likewise: pages have no fixed places */
#define SNAPSHOT_SECTION_FILE	   "godwit/file"
#define SNAPSHOT_SECTION_CONFIG	   "godwit/config" /* the machine's; JSON */
#define SNAPSHOT_SECTION_MEMORY	   "godwit/memory"
#define SNAPSHOT_SECTION_PLUGGED   "godwit/plugged"
#define SNAPSHOT_SECTION_CHECKSUMS "godwit/checksums"
#define SNAPSHOT_SECTION_INHERITED "godwit/inherited"
#define SNAPSHOT_SECTION_END	   "godwit/end"
#define SNAPSHOT_END_MAGIC	   0x676f647769742e01 /* "godwit.", 1 */
#define SNAPSHOT_END_SIZE	   40		      /* magic 8, id 16, file size 8, checksum 8 */
#define SNAPSHOT_SECTION_FRONT	   "godwit/front"
#define SNAPSHOT_SECTION_STREAM	   "godwit/stream-end"
#define SNAPSHOT_STREAM_MAGIC	   0x676f647769742e02 /* "godwit.", 2 */
#define SNAPSHOT_STREAM_SIZE	   56 /* magic 8, id 16, records 8, pages 8, bytes 8, checksum 8 */
#define SNAPSHOT_RECORD_SIZE	   36 /* offset 8, block 4, mask 8, checksum 16 */
#define SNAPSHOT_CHECKSUM_SIZE	   16
#define SNAPSHOT_ID_SIZE	   16

#endif
