/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How vCPUs and devices get the main loop's attention: a word of flags and an eventfd, which
 * neither allocate nor fail nor outlive the machine. The flags are looked at in order of importance
 * on the main loop.
 *
 * The guest causes all of it and may cause it at any rate; flags that are set already cost one
 * system call.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "machine/machine_incoming.h"
#include "machine/machine_private.h"
#include "machine/machine_restore.h"

void machine_attract(struct machine *machine, enum machine_attention what)
{
	const uint64_t one = 1;

	__atomic_fetch_or(&machine->attention, what, __ATOMIC_ACQ_REL);
	/* A full counter (EAGAIN) means that the loop has been told more than often enough. */
	if (write(machine->attention_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("cannot wake the main loop: %s", strerrordesc_np(errno));
}

void machine_attention_forget(struct machine *machine, uint32_t what)
{
	__atomic_fetch_and(&machine->attention, ~what, __ATOMIC_ACQ_REL);
}

void machine_power_request(void *context, enum power_request what)
{
	static const enum machine_attention attention[] = {
	    [POWER_OFF] = ATTENTION_OFF,
	    [POWER_RESET] = ATTENTION_RESET,
	    [POWER_PANICKED] = ATTENTION_PANICKED,
	    [POWER_CRASH_LOADED] = ATTENTION_CRASH_LOADED,
	};

	machine_attract(context, attention[what]);
}

void machine_kvm_event(void *context, enum kvm_event event, const char *detail)
{
	struct machine *machine = context;

	/* How a guest ends whose memory is gone depends on what KVM was about to do there. */
	if (machine_restore_lost(machine, event == KVM_EVENT_NO_MEMORY, detail))
		return;
	if (event == KVM_EVENT_SHUTDOWN) {
		machine_attract(machine, ATTENTION_RESET);
		return;
	}
	pthread_mutex_lock(&machine->detail_lock);
	snprintf(machine->detail, sizeof(machine->detail), "%s", detail);
	pthread_mutex_unlock(&machine->detail_lock);
	machine_attract(machine, ATTENTION_INTERNAL_ERROR);
}

/* --- On the main loop ------------------------------------------------------------------------- */

static void guest_reset(struct machine *machine, const char *reason)
{
	struct error *error;

	if (machine->config.no_reboot) {
		machine_shutdown(machine, true, reason);
		return;
	}
	error = machine_reset_by(machine, true, reason);
	if (error) {
		log_error("the guest cannot start again: %s", error_message(error));
		error_free(error);
		machine->exit_status = 1;
		machine_shutdown(machine, true, "host-error");
	}
}

/* What the operator wants to happen when the guest crashes; @action as QAPI's GuestPanicAction. */
static void guest_crashed(struct machine *machine)
{
	static const char *const actions[] = {
	    [ON_CRASH_PAUSE] = "pause",
	    [ON_CRASH_RESET] = "run",
	    [ON_CRASH_EXIT] = "poweroff",
	};

	machine_emit(machine, "GUEST_PANICKED",
		     json_pack("{s:s}", "action", actions[machine->config.on_crash]));
	machine_crash(machine);
	switch (machine->config.on_crash) {
	case ON_CRASH_PAUSE:
		break;
	case ON_CRASH_RESET:
		guest_reset(machine, "guest-panic");
		if (machine->state == MACHINE_PAUSED) {
			struct error *error = machine_resume(machine);

			error_free(error); /* a machine that was just reset can run */
		}
		break;
	case ON_CRASH_EXIT:
		machine->exit_status = 1;
		machine_shutdown(machine, true, "guest-panic");
		break;
	}
}

static void log_internal_error(struct machine *machine)
{
	pthread_mutex_lock(&machine->detail_lock);
	log_error("the guest cannot go on: %s", machine->detail);
	pthread_mutex_unlock(&machine->detail_lock);
}

static void attention_ready(void *context, uint32_t events)
{
	struct machine *machine = context;
	uint64_t count;
	uint32_t what;

	if (read(machine->attention_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_error("cannot read an eventfd: %s", strerrordesc_np(errno));
	what = __atomic_exchange_n(&machine->attention, 0, __ATOMIC_ACQ_REL);
	if (what & ATTENTION_ELASTIC)
		machine_memory_report(machine);
	if (what & ATTENTION_SERIAL)
		machine_serial_receive(machine);
	if (what & ATTENTION_LEAVE)
		machine_shutdown(machine, false, "host-ui");
	if (machine->state != MACHINE_RUNNING && machine->state != MACHINE_PAUSED)
		return;
	/* machine_thaw asks again, or who connects again to where the guest's memory is */
	if (machine->frozen || machine_incoming_is_cut(machine)) {
		__atomic_fetch_or(&machine->attention, what & ATTENTION_GUEST, __ATOMIC_ACQ_REL);
		return;
	}
	if (what & ATTENTION_CRASH_LOADED)
		machine_emit(machine, "GUEST_CRASHLOADED", json_pack("{s:s}", "action", "run"));
	if (what & ATTENTION_INTERNAL_ERROR)
		log_internal_error(machine);
	/* A guest that crashed may have asked for a reset in the same breath; the crash policy
	 * decides. */
	if (what & (ATTENTION_PANICKED | ATTENTION_INTERNAL_ERROR))
		guest_crashed(machine);
	else if (what & ATTENTION_OFF)
		machine_shutdown(machine, true, "guest-shutdown");
	else if (what & ATTENTION_RESET)
		guest_reset(machine, "guest-reset");
}

struct error *machine_attention_create(struct machine *machine)
{
	machine->attention_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (machine->attention_fd < 0)
		return error_system(errno, "cannot create an eventfd");
	return event_loop_add(machine->loop, machine->attention_fd, EPOLLIN, attention_ready,
			      machine, &machine->attention_source);
}

void machine_attention_destroy(struct machine *machine)
{
	event_source_remove(TAKE_PTR(machine->attention_source));
	close_fd(&machine->attention_fd);
}
