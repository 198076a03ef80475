/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of link.h share: link.c has the life of a link and its messages, link_connect.c the
 * source's beginning, link_accept.c the destination's. */
#ifndef GODWIT_MIGRATION_LINK_PRIVATE_H
#define GODWIT_MIGRATION_LINK_PRIVATE_H

#include <pthread.h>

#include "migration/link.h"

#define LINK_TIMEOUT_MS 30000

struct migration_link {
	enum migration_side side;
	struct transport_address *address;
	struct tls_credentials *tls;
	struct transport_listener *listener; /* of a destination that waits */
	uint32_t timeout_ms;
	uint8_t session[WIRE_SESSION_SIZE];
	bool resumes;
	uint32_t channels;
	bool postcopy;
	int cancel_fd; /* an eventfd, readable once cancelled */

	pthread_mutex_t lock; /* guards the next ones while connections come */
	bool cancelled;
	struct transport *main;
	struct transport *data[WIRE_CHANNELS_MAX + 1]; /* requested pages behind the last one */

	pthread_mutex_t send_lock;
	uint8_t *payload; /* of the message last received */
	size_t payload_size;
};

/* @transport becomes the link's, where cancel finds it. */
void link_publish(struct migration_link *link, struct transport **place,
		  struct transport *transport);
/* Data connections, and the one for requested pages. */
static inline uint32_t link_data_count(const struct migration_link *link)
{
	return link->channels + (link->postcopy ? 1 : 0);
}
/* "main", "data connection 3", "requested pages" */
const char *link_label(const struct migration_link *link, enum wire_channel channel, uint32_t index,
		       char text[32]);

#endif
