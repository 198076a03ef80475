/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a destination begins, link.h: strangers come and say, or do not say, who they are. One thread
 * watches all of them at once and waits for none, so that a silent one is in nobody's way.
 *
 * A session whose main connection ends, or whose others do not come, before it is complete, is
 * forgotten. Who connects controls when, how often and what; before the hello is understood it holds one of the
 * places here and nothing else.
 */
#include <poll.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "migration/link_private.h"

#define PENDING_MAX    32
#define PENDING_NS     (10 * NS_PER_SECOND)
#define ANSWER_MS      5000 /* an answer fits every socket's buffer */
#define WATCHED_ALWAYS 3    /* descriptors in front of the pending ones */

struct pending {
	struct transport *transport; /* NULL: this place is free */
	int64_t since;
	short events; /* what it waits for */
	bool greeted; /* the handshake is done */
	size_t got;
	uint8_t hello[WIRE_HELLO_SIZE];
};

struct acceptance {
	struct migration_link *link;
	struct pending pending[PENDING_MAX];
	struct rate_limit log;
	int64_t deadline; /* for the session's other connections; 0: nobody has come yet */
};

static void drop(struct acceptance *acceptance, struct pending *pending, const char *why)
{
	if (why && rate_limit_pass(&acceptance->log))
		log_warning("a connection was refused: %s", why);
	transport_close(TAKE_PTR(pending->transport));
}

static struct pending *free_place(struct acceptance *acceptance)
{
	struct pending *eldest = &acceptance->pending[0];

	for (int i = 0; i < PENDING_MAX; i++) {
		struct pending *pending = &acceptance->pending[i];

		if (!pending->transport)
			return pending;
		if (pending->since < eldest->since)
			eldest = pending;
	}
	drop(acceptance, eldest, "too many have not said who they are");
	return eldest;
}

static struct error *welcome(struct acceptance *acceptance, struct transport *transport)
{
	struct pending *pending = free_place(acceptance);

	*pending = (struct pending){
	    .transport = transport, .since = clock_monotonic_ns(), .events = POLLIN};
	if (acceptance->link->tls)
		return transport_start_tls(transport, acceptance->link->tls);
	return NULL;
}

/* --- The hello --------------------------------------------------------------------------------- */

static bool is_session(const struct migration_link *link, const struct wire_hello *hello)
{
	return memcmp(hello->session, link->session, WIRE_SESSION_SIZE) == 0;
}

/* Where a connection that says @hello belongs, or NULL with why not. */
static struct transport **find_place(struct migration_link *link, const struct wire_hello *hello,
				     enum wire_status *status)
{
	struct transport **place = NULL;

	*status = WIRE_STATUS_SESSION;
	if (hello->channel == WIRE_CHANNEL_MAIN) {
		if (link->main || (bool)(hello->flags & WIRE_HELLO_RESUME) != link->resumes ||
		    (link->resumes && !is_session(link, hello)))
			return NULL;
		place = &link->main;
	} else {
		if (!link->main || !is_session(link, hello))
			return NULL;
		*status = WIRE_STATUS_CHANNEL;
		if (hello->count != link->channels ||
		    (bool)(hello->flags & WIRE_HELLO_POSTCOPY) != link->postcopy)
			return NULL;
		place = hello->channel == WIRE_CHANNEL_DATA ? &link->data[hello->index]
							    : &link->data[link->channels];
		if (*place)
			return NULL;
	}
	*status = WIRE_STATUS_OK;
	return place;
}

static struct error *answer(struct transport *transport, enum wire_status status)
{
	uint8_t bytes[WIRE_ANSWER_SIZE];
	struct iovec part = {bytes, sizeof(bytes)};

	wire_put_answer(bytes, status);
	transport_set_timeout(transport, ANSWER_MS);
	TRY(transport_send(transport, &part, 1));
	transport_set_timeout(transport, 0);
	return NULL;
}

static struct error *name_it(const struct migration_link *link, struct transport *transport,
			     const struct wire_hello *hello)
{
	AUTO_FREE char *name = NULL;
	char label[32];

	if (asprintf(&name, "%s, %s", migration_link_address(link),
		     link_label(link, hello->channel, hello->index, label)) < 0)
		return error_system(ENOMEM, "%s", transport_name(transport));
	return transport_rename(transport, name);
}

/* The hello is there: takes *@transport into the link, or says why not. */
static struct error *take(struct acceptance *acceptance, struct transport **transport,
			  const uint8_t bytes[WIRE_HELLO_SIZE])
{
	struct migration_link *link = acceptance->link;
	struct transport **place;
	struct wire_hello hello;
	enum wire_status status;
	struct error *error = wire_get_hello(bytes, &hello, &status);

	place = error ? NULL : find_place(link, &hello, &status);
	if (!place) {
		error_free(answer(*transport, status));
		return error ? error
			     : error_new(EBADMSG,
					 "its session or kind of connection is not expected");
	}
	TRY(name_it(link, *transport, &hello));
	TRY(answer(*transport, WIRE_STATUS_OK));
	link_publish(link, place, TAKE_PTR(*transport));
	if (hello.channel == WIRE_CHANNEL_MAIN) {
		memcpy(link->session, hello.session, WIRE_SESSION_SIZE);
		link->channels = hello.count;
		link->postcopy = hello.flags & WIRE_HELLO_POSTCOPY;
		acceptance->deadline = clock_monotonic_ns() + (int64_t)link->timeout_ms * NS_PER_MS;
	}
	return NULL;
}

/* What can be done for one that something has come from. */
static struct error *step(struct acceptance *acceptance, struct pending *pending)
{
	size_t got;

	if (!pending->greeted) {
		TRY(transport_try_handshake(pending->transport, &pending->events));
		if (pending->events)
			return NULL;
		pending->greeted = true;
		pending->events = POLLIN;
	}
	TRY(transport_try_receive(pending->transport, pending->hello + pending->got,
				  WIRE_HELLO_SIZE - pending->got, &got));
	pending->got += got;
	return pending->got == WIRE_HELLO_SIZE
		   ? take(acceptance, &pending->transport, pending->hello)
		   : NULL;
}

static void step_or_drop(struct acceptance *acceptance, struct pending *pending)
{
	AUTO_ERROR struct error *error = step(acceptance, pending);

	if (error)
		drop(acceptance, pending, error_message(error));
}

/* --- Listening --------------------------------------------------------------------------------- */

static bool is_complete(const struct migration_link *link)
{
	if (!link->main)
		return false;
	for (uint32_t i = 0; i < link_data_count(link); i++)
		if (!link->data[i])
			return false;
	return true;
}

static void drop_silent(struct acceptance *acceptance, int64_t now)
{
	for (int i = 0; i < PENDING_MAX; i++)
		if (acceptance->pending[i].transport &&
		    now - acceptance->pending[i].since > PENDING_NS)
			drop(acceptance, &acceptance->pending[i], "it did not say who it is");
}

/* Nothing has come of it: whoever comes next can begin anew. */
static void forget_session(struct acceptance *acceptance, const char *why)
{
	struct migration_link *link = acceptance->link;

	if (rate_limit_pass(&acceptance->log))
		log_warning("%s: %s: waiting for another source", transport_name(link->main), why);
	pthread_mutex_lock(&link->lock);
	transport_close(TAKE_PTR(link->main));
	for (uint32_t i = 0; i < ARRAY_SIZE(link->data); i++)
		transport_close(TAKE_PTR(link->data[i]));
	pthread_mutex_unlock(&link->lock);
	acceptance->deadline = 0;
}

/* A source that begins and does not go on must not keep others out. */
static void check_session(struct acceptance *acceptance, const struct pollfd *main)
{
	if (main->revents & (POLLRDHUP | POLLHUP | POLLERR))
		forget_session(acceptance, "the source has gone before it was connected");
	else if (acceptance->deadline && clock_monotonic_ns() > acceptance->deadline)
		forget_session(acceptance, "the source has not made all its connections");
}

static struct error *listen_once(struct acceptance *acceptance)
{
	struct migration_link *link = acceptance->link;
	struct pollfd fds[WATCHED_ALWAYS + PENDING_MAX];
	struct transport *transport;

	fds[0] = (struct pollfd){.fd = link->cancel_fd, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = transport_listener_fd(link->listener), .events = POLLIN};
	fds[2] =
	    (struct pollfd){.fd = link->main ? transport_fd(link->main) : -1, .events = POLLRDHUP};
	for (int i = 0; i < PENDING_MAX; i++)
		fds[WATCHED_ALWAYS + i] =
		    (struct pollfd){.fd = acceptance->pending[i].transport
					      ? transport_fd(acceptance->pending[i].transport)
					      : -1,
				    .events = acceptance->pending[i].events};
	while (poll(fds, ARRAY_SIZE(fds), 1000) < 0)
		if (errno != EINTR)
			return error_system(errno, "%s", migration_link_address(link));
	if (fds[0].revents)
		return error_new(ECANCELED, "%s: cancelled", migration_link_address(link));
	check_session(acceptance, &fds[2]);
	for (int i = 0; i < PENDING_MAX; i++)
		if (fds[WATCHED_ALWAYS + i].revents)
			step_or_drop(acceptance, &acceptance->pending[i]);
	drop_silent(acceptance, clock_monotonic_ns());
	if (!fds[1].revents)
		return NULL;
	TRY(transport_accept(link->listener, &transport));
	return transport ? welcome(acceptance, transport) : NULL;
}

static struct error *listen_for_all(struct migration_link *link)
{
	struct acceptance acceptance = {.link = link};
	struct error *error = NULL;

	while (!error && !is_complete(link))
		error = listen_once(&acceptance);
	for (int i = 0; i < PENDING_MAX; i++)
		transport_close(acceptance.pending[i].transport);
	return error;
}

/* --- Descriptors and commands ------------------------------------------------------------------ */

static struct error *greet_one(struct acceptance *acceptance, uint32_t number)
{
	struct migration_link *link = acceptance->link;
	AUTO_TRANSPORT struct transport *transport = NULL;
	enum wire_channel channel = !number		       ? WIRE_CHANNEL_MAIN
				    : number <= link->channels ? WIRE_CHANNEL_DATA
							       : WIRE_CHANNEL_POSTCOPY;
	uint8_t hello[WIRE_HELLO_SIZE];
	struct iovec part = {hello, sizeof(hello)};
	char label[32];
	struct pollfd fds[] = {{.fd = link->cancel_fd, .events = POLLIN}, {.events = POLLIN}};
	size_t got;

	TRY(transport_connect(link->address, number, link_label(link, channel, number - 1, label),
			      link->cancel_fd, (int)link->timeout_ms, &transport));
	if (link->tls)
		TRY(transport_start_tls(transport, link->tls));
	/* A source may take its time before it begins, but not afterwards. */
	fds[1].fd = transport_fd(transport);
	while (poll(fds, 2, number ? (int)link->timeout_ms : -1) < 0)
		if (errno != EINTR)
			return error_system(errno, "%s", transport_name(transport));
	if (fds[0].revents)
		return error_new(ECANCELED, "%s: cancelled", transport_name(transport));
	transport_set_timeout(transport, link->timeout_ms);
	TRY(transport_handshake(transport));
	TRY(transport_receive(transport, &part, 1, sizeof(hello), &got));
	if (!got)
		return error_new(ECONNRESET, "%s: the source has gone before it was connected",
				 transport_name(transport));
	return error_prefix(take(acceptance, &transport, hello), "%s", link->address->text);
}

struct error *migration_link_accept(struct migration_link *link)
{
	struct acceptance acceptance = {.link = link};

	link->address->owns_fds = true;
	if (link->listener) {
		TRY(listen_for_all(link));
		transport_listener_close(TAKE_PTR(link->listener));
		return NULL;
	}
	for (uint32_t number = 0; !is_complete(link); number++)
		TRY(greet_one(&acceptance, number));
	return NULL;
}
