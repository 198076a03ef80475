/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a source begins, link.h: the main connection first, whose answer says that the destination takes
 * part, then the others.
 */
#include "migration/link_private.h"

static struct error *greet(const struct migration_link *link, struct transport *transport,
			   enum wire_channel channel, uint32_t index)
{
	struct wire_hello hello = {.channel = channel,
				   .flags = (link->postcopy ? WIRE_HELLO_POSTCOPY : 0) |
					    (link->resumes ? WIRE_HELLO_RESUME : 0),
				   .index = (uint16_t)index,
				   .count = (uint16_t)link->channels};
	uint8_t bytes[WIRE_HELLO_SIZE], answer[WIRE_ANSWER_SIZE];
	struct iovec part = {bytes, sizeof(bytes)};
	size_t got;

	__builtin_memcpy(hello.session, link->session, WIRE_SESSION_SIZE);
	wire_put_hello(bytes, &hello);
	TRY(transport_handshake(transport));
	TRY(transport_send(transport, &part, 1));
	part = (struct iovec){answer, sizeof(answer)};
	TRY(transport_receive(transport, &part, 1, sizeof(answer), &got));
	if (!got)
		return error_new(ECONNRESET,
				 "%s: the other end closed the connection before it answered",
				 transport_name(transport));
	return error_prefix(wire_get_answer(answer), "%s", transport_name(transport));
}

static struct error *connect_one(struct migration_link *link, enum wire_channel channel,
				 uint32_t index, struct transport **place)
{
	uint32_t number = channel == WIRE_CHANNEL_MAIN ? 0 : index + 1;
	struct transport *transport = NULL;
	char label[32];

	TRY(transport_connect(link->address, number, link_label(link, channel, index, label),
			      link->cancel_fd, (int)link->timeout_ms, &transport));
	link_publish(link, place, transport);
	if (link->tls)
		TRY(transport_start_tls(transport, link->tls));
	transport_set_timeout(transport, link->timeout_ms);
	/* The number says where the descriptor or command is, the hello what the connection is. */
	TRY(greet(link, transport, channel, channel == WIRE_CHANNEL_DATA ? index : 0));
	transport_set_timeout(transport, 0);
	return NULL;
}

struct error *migration_link_connect(struct migration_link *link)
{
	link->address->owns_fds = true;
	TRY(connect_one(link, WIRE_CHANNEL_MAIN, 0, &link->main));
	for (uint32_t i = 0; i < link->channels; i++)
		TRY(connect_one(link, WIRE_CHANNEL_DATA, i, &link->data[i]));
	if (link->postcopy)
		TRY(connect_one(link, WIRE_CHANNEL_POSTCOPY, link->channels,
				&link->data[link->channels]));
	return NULL;
}
