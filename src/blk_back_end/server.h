/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who a disk is served to: one front-end after the other, over a listening socket, a connection that was
 * handed in, or one that is made to a front-end's socket, again and again.
 */
#ifndef GODWIT_BLK_BACK_END_SERVER_H
#define GODWIT_BLK_BACK_END_SERVER_H

#include "blk_back_end/device.h"

struct server_options {
	/* One of these. */
	const char *listen, *connect; /* paths */
	int fd;			      /* a socket, connected or listening; -1: none */
	uint32_t slots;		      /* pieces of memory for each front-end */
	struct blk_disk_options disk;
};

/*
 * Serves until SIGTERM or SIGINT, or, over a connection that was handed in, until that ends. An error: it cannot
 * begin, or (ECONNRESET) not go on, and the process is to end at once: threads wait for memory that will not come.
 * What goes wrong with one front-end is said in the log.
 */
struct error *server_run(const struct server_options *options) MUST_CHECK;

#endif
