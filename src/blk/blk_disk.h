/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk as a virtio-blk device shows it (virtio 1.2 sections 5.2.3 to 5.2.5): a file, what the device
 * offers because of it, the configuration space, the cache mode. Without rings and threads: those are
 * the device's, in the VMM (virtio/blk.c) or in a process of its own (blk_back_end).
 *
 * The queues' threads read what is marked atomic while the device's thread writes it; the rest is fixed
 * while queues run. The guest controls configuration writes (one byte: the cache mode) and the
 * feature set.
 */
#ifndef GODWIT_BLK_BLK_DISK_H
#define GODWIT_BLK_BLK_DISK_H

#include "base/checked.h"
#include "base/log.h"
#include "blk/blk_file.h"
#include "blk/blk_request.h"

struct state;

#define BLK_CONFIG_SIZE	     60 /* bytes of configuration space */
#define BLK_CONFIG_WRITEBACK 32 /* the byte of it that drivers write */
#define BLK_ZEROS_SIZE	     KIB(64)

struct blk_disk_options {
	struct blk_file_options file;
	const char *name;   /* for messages */
	const char *serial; /* at most BLK_ID_SIZE characters */
	uint16_t queues;
	bool write_through;
	bool discard, discard_given; /* not given: where the storage can */
};

struct blk_disk {
	struct blk_file file;
	char *name;
	struct blk_limits limits;
	uint64_t features; /* that the disk is a reason to offer */
	uint16_t queues;
	bool write_through_option;
	bool unmap;	    /* storage may be given back; else only overwritten */
	bool writeback;	    /* the field of the configuration */
	bool write_through; /* atomic: a write is stable when it completes */
	bool no_zero_range; /* atomic: the file system cannot zero a range: write zeros */
	bool sync_failed;   /* atomic: see blk_engine.c */
	struct rate_limit error_log;
	uint8_t *zeros; /* BLK_ZEROS_SIZE bytes that read as zero */
};

/* Fills *disk; undone by blk_disk_close, also after an error. Before both, file.fd is -1. */
struct error *blk_disk_open(struct blk_disk *disk,
			    const struct blk_disk_options *options) MUST_CHECK;
void blk_disk_close(struct blk_disk *disk);

/*
 * The driver has accepted @features: any subset of those offered will do. A driver that can toggle the
 * cache but not flush it starts without one (5.2.5.2).
 */
void blk_disk_accept(struct blk_disk *disk, uint64_t features);
void blk_disk_reset(struct blk_disk *disk);

/* [offset, offset + size) is inside of BLK_CONFIG_SIZE. */
void blk_disk_read_config(const struct blk_disk *disk, uint32_t offset, void *data, uint32_t size);
/* @features: as accepted. What a driver may not write is left alone. */
void blk_disk_write_config(struct blk_disk *disk, uint64_t features, uint32_t offset,
			   const void *data, uint32_t size);

/*
 * What the guest believes of the disk must hold for the one that it comes back to: compared, but for
 * the cache mode and lost writes, which are loaded.
 */
void blk_disk_state(struct blk_disk *disk, uint64_t features, struct state *state);

#endif
