/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The server of server.h: one event loop, on the main thread, for the listening socket, the session and
 * signals. One session at a time: who connects meanwhile waits for its end.
 */
#include "blk_back_end/server.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/event_loop.h"
#include "vhost_user/socket.h"

#define CONNECT_RETRY_NS (200 * NS_PER_MS)

struct server {
	const struct server_options *options;
	struct event_loop *loop;
	struct blk_device device;
	bool device_made;
	int listener, signals;
	struct event_source *listener_source, *signals_source, *session_source;
	struct event_timer *connect_timer;
	bool connect_told;
	bool once;  /* the connection was handed in */
	bool stuck; /* nothing can be finished any more: the process is to end as it is */
};

static void session_ready(void *context, uint32_t events);

/* --- Sessions ---------------------------------------------------------------------------------- */

static struct error *begin_session(struct server *server, int fd)
{
	struct error *error = blk_device_open(&server->device, fd, server->options->slots);

	if (!error)
		error = event_loop_add(server->loop, vhost_user_back_end_fd(server->device.back),
				       EPOLLIN, session_ready, server, &server->session_source);
	if (error) {
		blk_device_close(&server->device);
		return error;
	}
	if (server->listener_source)
		event_source_set_events(server->listener_source, 0);
	return NULL;
}

static void end_session(struct server *server)
{
	event_source_remove(server->session_source);
	server->session_source = NULL;
	server->stuck = blk_device_is_stuck(&server->device);
	if (server->stuck) {
		event_loop_stop(server->loop);
		return;
	}
	blk_device_close(&server->device);
	if (server->listener_source)
		event_source_set_events(server->listener_source, EPOLLIN);
	else if (server->once)
		event_loop_stop(server->loop);
	else
		event_timer_arm(server->connect_timer, CONNECT_RETRY_NS);
}

static void session_ready(void *context, uint32_t events)
{
	struct server *server = context;
	struct error *error = blk_device_process(&server->device);

	if (!error)
		return;
	if (error_code(error) == ECONNRESET)
		log_info("%s", error_message(error));
	else
		log_error("%s", error_message(error));
	error_free(error);
	end_session(server);
}

/* --- Connections ------------------------------------------------------------------------------- */

static void begin_or_tell(struct server *server, int fd)
{
	struct error *error = begin_session(server, fd);

	if (error)
		log_error("%s", error_message(error));
	error_free(error);
}

static void accept_connection(void *context, uint32_t events)
{
	struct server *server = context;
	struct error *error;
	int fd;

	error = vhost_user_accept(server->listener, 0, &fd);
	if (error)
		log_error("%s", error_message(error));
	else if (fd >= 0)
		begin_or_tell(server, fd);
	error_free(error);
}

static void connect_now(void *context)
{
	struct server *server = context;
	struct error *error;
	int fd;

	error =
	    vhost_user_connect(server->options->connect, clock_monotonic_ns() + NS_PER_SECOND, &fd);
	if (!error) {
		server->connect_told = false;
		begin_or_tell(server, fd);
		if (!server->session_source)
			event_timer_arm(server->connect_timer, CONNECT_RETRY_NS);
		return;
	}
	if (!server->connect_told)
		log_warning("%s: waiting for it", error_message(error));
	server->connect_told = true;
	error_free(error);
	event_timer_arm(server->connect_timer, CONNECT_RETRY_NS);
}

static struct error *watch_listener(struct server *server)
{
	return event_loop_add(server->loop, server->listener, EPOLLIN, accept_connection, server,
			      &server->listener_source);
}

/* The socket that was handed in: whether it listens it says itself. */
static struct error *use_descriptor(struct server *server, int fd)
{
	int listens = 0, own;
	socklen_t size = sizeof(listens);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0)
		return error_system(errno, "descriptor %d", fd);
	own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return error_system(errno, "descriptor %d", fd);
	close(fd);
	if (!listens) {
		server->once = true;
		return begin_session(server, own);
	}
	server->listener = own;
	if (fcntl(own, F_SETFL, O_NONBLOCK) < 0)
		return error_system(errno, "descriptor %d", fd);
	return watch_listener(server);
}

static struct error *begin(struct server *server)
{
	const struct server_options *options = server->options;

	if (options->fd >= 0)
		return use_descriptor(server, options->fd);
	if (options->connect) {
		event_timer_arm(server->connect_timer, 0);
		return NULL;
	}
	TRY(vhost_user_listen(options->listen, &server->listener));
	return watch_listener(server);
}

/* --- The process ------------------------------------------------------------------------------- */

static void signalled(void *context, uint32_t events)
{
	event_loop_stop(((struct server *)context)->loop);
}

static struct error *watch_signals(struct server *server)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
		return error_system(errno, "signals");
	server->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (server->signals < 0)
		return error_system(errno, "signals");
	return event_loop_add(server->loop, server->signals, EPOLLIN, signalled, server,
			      &server->signals_source);
}

static struct error *run(struct server *server)
{
	TRY(event_loop_create(&server->loop));
	TRY(watch_signals(server));
	TRY(event_timer_create(server->loop, connect_now, server, &server->connect_timer));
	server->device_made = true;
	TRY(blk_device_create(&server->device, &server->options->disk, server->loop));
	TRY(begin(server));
	event_loop_run(server->loop);
	if (server->stuck)
		return error_new(
		    ECONNRESET,
		    "the front-end has gone in the middle of post-copy, and memory that "
		    "requests wait for with it");
	return NULL;
}

static void clean_up(struct server *server)
{
	event_source_remove(server->session_source);
	event_source_remove(server->listener_source);
	event_source_remove(server->signals_source);
	if (server->device_made) {
		blk_device_close(&server->device);
		blk_device_destroy(&server->device);
	}
	event_timer_destroy(server->connect_timer);
	event_loop_destroy(server->loop);
	if (server->listener >= 0 && server->options->listen)
		unlink(server->options->listen);
	close_fd(&server->listener);
	close_fd(&server->signals);
}

struct error *server_run(const struct server_options *options)
{
	struct server server = {.options = options, .listener = -1, .signals = -1};
	struct error *error = run(&server);

	if (!server.stuck)
		clean_up(&server);
	return error;
}
