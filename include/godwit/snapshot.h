/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading snapshot files of virtual machines: godwit's, and those that QEMU writes with mapped-ram.
 * This header is all that is needed; docs/snapshot-format.md of godwit is the format, and
 * docs/libraries.md has an example. Link with what `pkg-config --libs godwit-snapshot` says.
 *
 * A snapshot has *blocks*, which are pieces of guest memory, *ranges*, which say where in the
 * guest's physical memory these are, and *parts*, the states of devices and processors and the
 * machine's configuration, as bytes.
 *
 * Trust. Nothing in a file is trusted. Opening checks all of its structure: of godwit's files also
 * that they were written to their end, and a checksum of everything that is not a page. Pages are
 * checked as they are read, in pieces of GODWIT_SNAPSHOT_CHUNK bytes. QEMU's files have neither.
 * What is allocated is bounded by the size of the file.
 *
 * Errors. Functions that can fail return 0 or a negative errno: -ENOENT, -EACCES … of the system;
 * -EINVAL: the file is not what it must be; -EBADMSG: a checksum does not fit; -EIO: the disk. Where
 * there is an argument @message that is not NULL, *@message is then a line for people, which names
 * file, field and offset; free it with free(). Without an error, *@message is NULL. (It may be NULL
 * with an error too, when memory is short.)
 *
 * Threads and locks. There are none inside, but in godwit_snapshot_verify. Any number of threads may
 * use one snapshot at once, but not while or after it is closed. Whoever cuts off the file meanwhile
 * makes reading fail, no more. Nothing here changes a file, takes a signal, or keeps global state.
 *
 * Stability. Functions are added, and do not change as long as GODWIT_SNAPSHOT_VERSION's hundreds,
 * which are the number in the library's name, stay. What is returned as a pointer belongs to the
 * snapshot, and lives until it is closed.
 */
#ifndef GODWIT_SNAPSHOT_H
#define GODWIT_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GODWIT_SNAPSHOT_VERSION 100
#define GODWIT_SNAPSHOT_PAGE	4096   /* bytes; whatever pages the host or the guest used */
#define GODWIT_SNAPSHOT_CHUNK	262144 /* bytes that one checksum covers */
#define GODWIT_SNAPSHOT_ID	16     /* bytes */

struct godwit_snapshot;

/* --- Opening ----------------------------------------------------------------------------------- */

/* For @flags. */
#define GODWIT_SNAPSHOT_ALONE 1U /* do not open bases: pages that are theirs cannot be read */

/*
 * Opens the snapshot at @path and, one upon the other, the files that it builds on (its bases, at
 * most 63). @base: where its base is now, if not where the file says; or NULL. A base with another id
 * than the file names is refused. *@snapshot is closed with godwit_snapshot_close; after an error it
 * is NULL. Reads what is not pages, 64 MiB at most, and bitmaps.
 */
int godwit_snapshot_open(const char *path, const char *base, unsigned int flags,
			 struct godwit_snapshot **snapshot, char **message);
/* Accepts NULL. */
void godwit_snapshot_close(struct godwit_snapshot *snapshot);

/* What wrote it: "godwit-1", or QEMU's machine type, "pc-q35-10.0". */
const char *godwit_snapshot_machine(const struct godwit_snapshot *snapshot);
/* Whether QEMU wrote it: there are no checksums, no id, no bases and no mark that it is complete. */
bool godwit_snapshot_is_foreign(const struct godwit_snapshot *snapshot);
/* The file's random id; all zeros in QEMU's. */
void godwit_snapshot_id(const struct godwit_snapshot *snapshot, uint8_t id[GODWIT_SNAPSHOT_ID]);
/*
 * The path of the base as the file has it, relative to the file's folder or absolute, and in @id
 * (unless NULL) its id. NULL, and zeros: it has none.
 */
const char *godwit_snapshot_base(const struct godwit_snapshot *snapshot,
				 uint8_t id[GODWIT_SNAPSHOT_ID]);

/* --- Blocks ------------------------------------------------------------------------------------ */

struct godwit_snapshot_block {
	const char *name; /* 1 to 127 printable characters; no two have the same */
	uint64_t size;	  /* bytes, whole pages */
	bool elastic;	  /* the guest plugs and unplugs units of it */
	uint64_t unit;	  /* bytes of such a unit, a power of two; 0: not elastic */
};

/* How many there are, at most 256. */
uint32_t godwit_snapshot_blocks(const struct godwit_snapshot *snapshot);
/* Block @index, from 0; false past the last one. */
bool godwit_snapshot_block(const struct godwit_snapshot *snapshot, uint32_t index,
			   struct godwit_snapshot_block *block);

/* Where a page is. Pages that are neither in the file nor in a base read as zeros. */
enum godwit_snapshot_state {
	GODWIT_SNAPSHOT_STORED,	   /* in this file; with a base: it has changed since then */
	GODWIT_SNAPSHOT_INHERITED, /* as in the base */
	GODWIT_SNAPSHOT_ZERO,
	GODWIT_SNAPSHOT_UNPLUGGED, /* the guest had no memory there */
};

/*
 * How many pages of block @index, from page number @page on, are in one state, which goes into
 * *@state: from page 0 on, by so many each time, this walks the block. 0: there is no such page, or
 * block. Looks at no page.
 */
uint64_t godwit_snapshot_run(const struct godwit_snapshot *snapshot, uint32_t index, uint64_t page,
			     enum godwit_snapshot_state *state);

/*
 * Reads @size bytes at @offset of block @index into @buffer, wherever its pages are, checking every
 * chunk that has some of them. Any offset and size inside the block; whole chunks are the fastest,
 * parts of them are read and checked whole. -ERANGE: outside. -ENOLINK: a page is a base's, and
 * GODWIT_SNAPSHOT_ALONE was given. After an error the buffer's content means nothing. May block on
 * the disk.
 */
int godwit_snapshot_read(const struct godwit_snapshot *snapshot, uint32_t index, uint64_t offset,
			 void *buffer, size_t size, char **message);

/*
 * The checksum of the @chunk-th GODWIT_SNAPSHOT_CHUNK bytes of block @index (the last may be fewer):
 * XXH3, 128 bits, high half first and each half big-endian, over the content as the guest saw it;
 * zeros for a chunk of zeros, and for no other. So chunks of any two files can be compared without
 * reading them. False: QEMU's files have none; or there is no such chunk.
 */
bool godwit_snapshot_checksum(const struct godwit_snapshot *snapshot, uint32_t index,
			      uint64_t chunk, uint8_t checksum[16]);

/* --- Guest-physical memory ---------------------------------------------------------------------- */

/* [address, address + size) of the guest's memory is [offset, offset + size) of a block. Bytes. */
struct godwit_snapshot_range {
	uint32_t block; /* index */
	uint64_t address, offset, size;
};

/*
 * How many there are, at most 512; 0 when it is not known, as with QEMU's machines other than pc and
 * q35. Of these two it is assumed to be what they have unless max-ram-below-4g was given.
 */
uint32_t godwit_snapshot_ranges(const struct godwit_snapshot *snapshot);
/* Range @index, ascending by address, from 0; false past the last one. None overlaps another. */
bool godwit_snapshot_range(const struct godwit_snapshot *snapshot, uint32_t index,
			   struct godwit_snapshot_range *range);

/* --- Parts ------------------------------------------------------------------------------------- */

struct godwit_snapshot_part {
	const char *name;     /* "cpu", "0000:00:03.0/virtio-net", "godwit/config" (JSON) */
	uint32_t instance;    /* tells parts of one name apart */
	uint32_t version;     /* of what is in it */
	const uint8_t *bytes; /* without a length in front, big-endian, unaligned */
	size_t size;	      /* of them */
	uint64_t offset;      /* of them in the file */
};

/* How many there are, at most 4096. */
uint32_t godwit_snapshot_parts(const struct godwit_snapshot *snapshot);
/* Part @index in the order of the file, from 0; false past the last one. */
bool godwit_snapshot_part(const struct godwit_snapshot *snapshot, uint32_t index,
			  struct godwit_snapshot_part *part);

/* --- Everything -------------------------------------------------------------------------------- */

struct godwit_snapshot_verified {
	uint64_t bytes;	 /* of all blocks */
	uint64_t zero;	 /* of them in chunks of zeros, which need not be read */
	uint64_t chunks; /* that were read */
	uint64_t bad;	 /* of them, cannot be read or have another checksum */
};

/*
 * Reads every page, of bases too, with @threads threads (1 to 64, the caller's among them), and
 * checks it. Goes on to the end whatever it finds: *@verified (unless NULL) counts, and the error is
 * that of the first bad chunk. Of QEMU's files it only says that pages can be read.
 */
int godwit_snapshot_verify(const struct godwit_snapshot *snapshot, unsigned int threads,
			   struct godwit_snapshot_verified *verified, char **message);

#ifdef __cplusplus
}
#endif

#endif
