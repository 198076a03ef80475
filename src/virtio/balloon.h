/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-balloon (virtio 1.2 section 5.5): takes memory from a guest that cooperates, gives free
 * pages that the guest reports back to the host, and asks the guest how its memory is doing.
 */
#ifndef GODWIT_VIRTIO_BALLOON_H
#define GODWIT_VIRTIO_BALLOON_H

#include "virtio/virtio_device.h"

/* What a guest can report (5.5.6.4; the last six since Linux 6.12). Bytes where nothing else is
 * said. */
enum virtio_balloon_statistic {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS, /* number */
	BALLOON_MINOR_FAULTS, /* number */
	BALLOON_FREE,
	BALLOON_TOTAL,
	BALLOON_AVAILABLE, /* without swapping */
	BALLOON_DISK_CACHES,
	BALLOON_HUGETLB_ALLOCATIONS, /* number */
	BALLOON_HUGETLB_FAILURES,    /* number */
	BALLOON_OOM_KILLS,	     /* number */
	BALLOON_ALLOCATION_STALLS,   /* number */
	BALLOON_ASYNC_SCANS,
	BALLOON_DIRECT_SCANS,
	BALLOON_ASYNC_RECLAIMS,
	BALLOON_DIRECT_RECLAIMS,
	BALLOON_STATISTICS,
};

struct virtio_balloon_statistics {
	int64_t
	    updated_ns;	  /* CLOCK_MONOTONIC; 0: the guest has not reported since its last reset */
	uint32_t present; /* bit n: the guest reports statistic n */
	uint64_t value[BALLOON_STATISTICS];
};

/* "available-memory", …: as QEMU names them without "stat-". */
const char *virtio_balloon_statistic_name(enum virtio_balloon_statistic statistic);

/*
 * Options, of which @text (may be NULL) is any number:
 *   id=ID,statistics=SECONDS,reporting=on|off,deflate-on-oom=on|off,committed=keep|release
 * statistics: how often the guest is asked, 0 (default) never. reporting (default on) offers free
 * page reporting. deflate-on-oom (default on) lets the guest take pages back rather than kill.
 * committed=release also gives back huge pages and blocks of files (default keep, see
 * memory_discard.h: nobody guarantees that they can be had again).
 */
struct error *virtio_balloon_create(const char *text, struct virtio_device **device) MUST_CHECK;

/* Asks the guest to put @bytes (rounded down to 4 KiB, at most 16 TiB) into the balloon. Not from
 * its loop. */
void virtio_balloon_set_target(struct virtio_device *device, uint64_t bytes);
/* What the guest says is in it, bytes. Any thread. */
uint64_t virtio_balloon_size(struct virtio_device *device);
/* How often the guest is asked for statistics, milliseconds; 0: never. Not from its loop. */
void virtio_balloon_set_interval(struct virtio_device *device, uint32_t milliseconds);
/* The last that the guest reported. Any thread. */
void virtio_balloon_statistics(struct virtio_device *device,
			       struct virtio_balloon_statistics *statistics);

#endif
