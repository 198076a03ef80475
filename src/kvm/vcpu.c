/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtual processors and their threads, see vcpu.h.
 *
 * Stopping: `stops` counts holds and pauses. A thread raises its `in_guest` flag before it looks at
 * `stops`; who stops raises `stops` before it looks at the flags (both sequentially consistent), so
 * one of them sees the other. A thread that is in the guest is brought out with immediate_exit and
 * a signal: the flag closes the window between the check and KVM_RUN, in which a signal alone would
 * be lost.
 *
 * An exit for a read that user space answered is only complete when KVM runs again; before a thread
 * parks it enters with immediate_exit set, which completes it and runs no guest code. That may end
 * in another exit, for the second half of a wide access, which is handled likewise.
 *
 * The guest controls what it touches and executes, hence which handlers run with which addresses
 * and data.
 */
#include "kvm/vcpu.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "kvm/cpu_registers.h"
#include "kvm/cpu_state.h"
#include "kvm/cpuid.h"
#include "kvm/dirty_ring.h"
#include "kvm/vcpu_faults.h"

#define KICK_SIGNAL  SIGRTMIN
#define EXCEPTION_UD 6

struct vcpu {
	struct kvm_vcpus *all;
	uint32_t index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;
	bool in_guest;	    /* atomic */
	bool parked;	    /* under the lock */
	int64_t rest_until; /* atomic; 0: it does not rest */
	bool halted; /* after a shutdown or an internal error, until a reset; under the lock */
	uint64_t slots_seen; /* for kvm_absent_ops.emulation_failed */
	struct cpu_state *power_on;
	struct kvm_cpuid2 *cpuid; /* what the guest sees */
	struct kvm_vcpu_statistics statistics;
	struct dirty_ring dirty_ring;
	struct vcpu_faults faults;
};

struct kvm_vcpus {
	struct kvm_vm *vm;
	struct kvm_vcpus_options options;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a thread left the guest, parked, or may go on */
	uint32_t stops;		/* atomic; holds + pauses + quitting */
	bool quitting;		/* under the lock */
	uint32_t count;
	struct vcpu vcpus[];
};

static void kick_handler(int signal)
{
	/* Its only purpose is to interrupt KVM_RUN. */
}

/* --- Exits
 * ---------------------------------------------------------------------------------------- */

static void handle_pio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	struct io_bus *bus = vcpu->all->vm->pio;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			io_bus_write(bus, run->io.port, data, run->io.size);
		else if (!io_bus_read(bus, run->io.port, data, run->io.size))
			memset(data, 0xff, run->io.size);
	}
}

static void handle_mmio(struct vcpu *vcpu)
{
	const struct kvm_vcpus_options *options = &vcpu->all->options;
	struct kvm_run *run = vcpu->run;
	uint64_t address = run->mmio.phys_addr;
	struct io_bus *bus = vcpu->all->vm->mmio;

	if (run->mmio.is_write ? io_bus_write(bus, address, run->mmio.data, run->mmio.len)
			       : io_bus_read(bus, address, run->mmio.data, run->mmio.len))
		return;
	if (options->absent->access(options->absent_context, address, run->mmio.data, run->mmio.len,
				    run->mmio.is_write))
		return;
	if (!run->mmio.is_write)
		memset(run->mmio.data, 0xff, run->mmio.len);
}

/* Stops this vCPU until the machine resets it, and tells the machine. */
static void halt(struct vcpu *vcpu, enum kvm_event event, const char *detail)
{
	struct kvm_vcpus *all = vcpu->all;

	pthread_mutex_lock(&all->lock);
	vcpu->halted = true;
	pthread_mutex_unlock(&all->lock);
	all->options.event(all->options.event_context, event, detail);
}

/* Gives the guest the exception that a real processor would raise for an instruction it does not
 * know. */
static bool inject_invalid_opcode(struct vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return false;
	events.exception.injected = 1;
	events.exception.pending = 0;
	events.exception.nr = EXCEPTION_UD;
	events.exception.has_error_code = 0;
	return ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) == 0;
}

/* KVM's emulator runs instructions that touch what has no slot, and it does not know all of them.
 */
static void handle_internal_error(struct vcpu *vcpu)
{
	const struct kvm_vcpus_options *options = &vcpu->all->options;
	uint32_t cause = vcpu->run->internal.suberror;
	char detail[64];

	if (cause == KVM_INTERNAL_ERROR_EMULATION && vcpu->all->vm->exits_on_emulation_failure) {
		if (options->absent->emulation_failed(options->absent_context, &vcpu->slots_seen) ||
		    inject_invalid_opcode(vcpu))
			return;
	}
	snprintf(detail, sizeof(detail), "vCPU %u: KVM internal error %u", vcpu->index, cause);
	halt(vcpu, KVM_EVENT_INTERNAL_ERROR, detail);
}

static void handle_exit(struct vcpu *vcpu)
{
	char detail[96];

	vcpu->statistics.exits++;
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		vcpu->statistics.pio_exits++;
		handle_pio(vcpu);
		break;
	case KVM_EXIT_MMIO:
		vcpu->statistics.mmio_exits++;
		handle_mmio(vcpu);
		break;
	case KVM_EXIT_SHUTDOWN:
		halt(vcpu, KVM_EVENT_SHUTDOWN, "triple fault");
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vcpu->statistics.other_exits++;
		handle_internal_error(vcpu);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(detail, sizeof(detail), "vCPU %u: cannot enter the guest: 0x%" PRIx64,
			 vcpu->index,
			 (uint64_t)vcpu->run->fail_entry.hardware_entry_failure_reason);
		halt(vcpu, KVM_EVENT_INTERNAL_ERROR, detail);
		break;
	case KVM_EXIT_DIRTY_RING_FULL:
		vcpu->statistics.other_exits++;
		vcpu->all->options.absent->dirty_ring_full(vcpu->all->options.absent_context);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		vcpu->statistics.other_exits++;
		break;
	default:
		snprintf(detail, sizeof(detail), "vCPU %u: unknown exit %u", vcpu->index,
			 vcpu->run->exit_reason);
		halt(vcpu, KVM_EVENT_INTERNAL_ERROR, detail);
		break;
	}
}

/* --- Threads
 * -------------------------------------------------------------------------------------- */

static void leave_guest(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->in_guest, false, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vcpu->all->stops, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&vcpu->all->lock);
		pthread_cond_broadcast(&vcpu->all->changed);
		pthread_mutex_unlock(&vcpu->all->lock);
	}
}

static bool must_stop(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->all->stops, __ATOMIC_SEQ_CST) || vcpu->halted;
}

/* Waits until the vCPU may enter the guest; false when the thread is to end. */
static bool park(struct vcpu *vcpu)
{
	struct kvm_vcpus *all = vcpu->all;
	bool go_on;

	/* Completes an exit that is half handled; runs no guest code. */
	vcpu->run->immediate_exit = 1;
	while (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
		handle_exit(vcpu);
		vcpu->run->immediate_exit = 1;
	}

	pthread_mutex_lock(&all->lock);
	vcpu->parked = true;
	pthread_cond_broadcast(&all->changed);
	while (must_stop(vcpu) && !all->quitting)
		pthread_cond_wait(&all->changed, &all->lock);
	vcpu->parked = false;
	go_on = !all->quitting;
	pthread_mutex_unlock(&all->lock);
	return go_on;
}

static int64_t rests_until(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->rest_until, __ATOMIC_SEQ_CST);
}

/* Waits until the vCPU has rested, or must stop. */
static void rest(struct vcpu *vcpu)
{
	struct kvm_vcpus *all = vcpu->all;

	pthread_mutex_lock(&all->lock);
	while (!must_stop(vcpu)) {
		int64_t until = rests_until(vcpu);
		const struct timespec when = {.tv_sec = until / NS_PER_SECOND,
					      .tv_nsec = until % NS_PER_SECOND};

		if (until <= clock_monotonic_ns()) {
			__atomic_store_n(&vcpu->rest_until, 0, __ATOMIC_SEQ_CST);
			break;
		}
		pthread_cond_clockwait(&all->changed, &all->lock, CLOCK_MONOTONIC, &when);
	}
	pthread_mutex_unlock(&all->lock);
}

/* Runs the guest until the next exit; false if it was interrupted or must not be entered. */
static bool enter(struct vcpu *vcpu)
{
	int result, failure;

	vcpu->run->immediate_exit =
	    0; /* left by a kick that is over; a new one finds in_guest set */
	__atomic_store_n(&vcpu->in_guest, true, __ATOMIC_SEQ_CST);
	if (must_stop(vcpu) || rests_until(vcpu)) {
		leave_guest(vcpu);
		return false;
	}
	result = ioctl(vcpu->fd, KVM_RUN, 0);
	failure = errno;
	leave_guest(vcpu);
	if (result == 0)
		return true;
	if (failure != EINTR && failure != EAGAIN) {
		char detail[96];

		snprintf(detail, sizeof(detail), "vCPU %u: KVM_RUN: %s", vcpu->index,
			 strerrordesc_np(failure));
		halt(vcpu, failure == EFAULT ? KVM_EVENT_NO_MEMORY : KVM_EVENT_INTERNAL_ERROR,
		     detail);
	}
	return false;
}

static void *vcpu_thread(void *context)
{
	struct vcpu *vcpu = context;
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	while (!must_stop(vcpu) || park(vcpu)) {
		if (rests_until(vcpu))
			rest(vcpu);
		else if (enter(vcpu))
			handle_exit(vcpu);
	}
	return NULL;
}

/* --- Stopping
 * ------------------------------------------------------------------------------------- */

static void kick(struct vcpu *vcpu)
{
	if (vcpu->started && __atomic_load_n(&vcpu->in_guest, __ATOMIC_SEQ_CST)) {
		vcpu->run->immediate_exit = 1;
		pthread_kill(vcpu->thread, KICK_SIGNAL);
	}
}

/* Brings every vCPU out of the guest. Called with the lock held and `stops` raised. */
static void kick_all(struct kvm_vcpus *vcpus)
{
	for (uint32_t i = 0; i < vcpus->count; i++)
		kick(&vcpus->vcpus[i]);
}

static bool any_in_guest(const struct kvm_vcpus *vcpus)
{
	for (uint32_t i = 0; i < vcpus->count; i++)
		if (__atomic_load_n(&vcpus->vcpus[i].in_guest, __ATOMIC_SEQ_CST))
			return true;
	return false;
}

static bool all_parked(const struct kvm_vcpus *vcpus)
{
	for (uint32_t i = 0; i < vcpus->count; i++)
		if (vcpus->vcpus[i].started && !vcpus->vcpus[i].parked)
			return false;
	return true;
}

static void stop(struct kvm_vcpus *vcpus, bool until_parked)
{
	pthread_mutex_lock(&vcpus->lock);
	__atomic_fetch_add(&vcpus->stops, 1, __ATOMIC_SEQ_CST);
	kick_all(vcpus);
	while (until_parked ? !all_parked(vcpus) : any_in_guest(vcpus))
		pthread_cond_wait(&vcpus->changed, &vcpus->lock);
	pthread_mutex_unlock(&vcpus->lock);
}

static void go_on(struct kvm_vcpus *vcpus)
{
	pthread_mutex_lock(&vcpus->lock);
	__atomic_fetch_sub(&vcpus->stops, 1, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
}

void kvm_vcpus_pause(struct kvm_vcpus *vcpus)
{
	stop(vcpus, true);
}

void kvm_vcpus_resume(struct kvm_vcpus *vcpus)
{
	/* Refused for a guest that does not use KVM's clock, which has no way to be told. */
	for (uint32_t i = 0; i < vcpus->count; i++)
		ioctl(vcpus->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
	go_on(vcpus);
}

void kvm_vcpus_hold(struct kvm_vcpus *vcpus)
{
	stop(vcpus, false);
}

void kvm_vcpus_release(struct kvm_vcpus *vcpus)
{
	go_on(vcpus);
}

void kvm_vcpus_rest(struct kvm_vcpus *vcpus, uint32_t index, int64_t until_ns)
{
	struct vcpu *vcpu = &vcpus->vcpus[index];

	pthread_mutex_lock(&vcpus->lock);
	__atomic_store_n(&vcpu->rest_until, until_ns, __ATOMIC_SEQ_CST);
	if (until_ns)
		kick(vcpu);
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
}

/* --- Life
 * ----------------------------------------------------------------------------------------- */

static struct error *create_vcpu(struct kvm_vcpus *vcpus, uint32_t index)
{
	struct vcpu *vcpu = &vcpus->vcpus[index];
	char name[16];

	vcpu->fd = ioctl(vcpus->vm->vm_fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		return error_system(errno, "KVM cannot create vCPU %u", index);
	vcpu->run =
	    mmap(NULL, vcpus->vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return error_system(errno, "cannot map the run area of vCPU %u", index);
	}
	TRY(dirty_ring_open(&vcpu->dirty_ring, vcpus->vm, vcpu->fd));
	vcpu_faults_open(&vcpu->faults, vcpu->fd);
	TRY(vcpus->options.cpuid(vcpus->options.cpuid_context, index, &vcpu->cpuid));
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, vcpu->cpuid) < 0)
		return error_system(errno, "KVM refuses the features of vCPU %u", index);
	kvm_cpuid_settle(vcpu->cpuid, vcpu->fd);
	TRY(cpu_state_capture(vcpus->vm->kvm_fd, vcpu->fd, &vcpu->power_on));
	snprintf(name, sizeof(name), "vcpu%u", index);
	TRY(thread_start(&vcpu->thread, name, vcpu_thread, vcpu));
	vcpu->started = true;
	return NULL;
}

struct error *kvm_vcpus_create(struct kvm_vm *vm, const struct kvm_vcpus_options *options,
			       struct kvm_vcpus **result)
{
	struct sigaction action = {.sa_handler = kick_handler};
	struct kvm_vcpus *vcpus;

	vcpus = calloc(1, sizeof(*vcpus) + options->count * sizeof(vcpus->vcpus[0]));
	if (!vcpus)
		return error_system(ENOMEM, "vCPUs");
	vcpus->vm = vm;
	vcpus->options = *options;
	vcpus->count = options->count;
	vcpus->stops = 1;
	pthread_mutex_init(&vcpus->lock, NULL);
	pthread_cond_init(&vcpus->changed, NULL);
	sigaction(KICK_SIGNAL, &action, NULL);
	for (uint32_t i = 0; i < vcpus->count; i++) {
		vcpus->vcpus[i].all = vcpus;
		vcpus->vcpus[i].index = i;
		vcpus->vcpus[i].fd = vcpus->vcpus[i].faults.fd = -1;
	}
	for (uint32_t i = 0; i < vcpus->count; i++) {
		struct error *error = create_vcpu(vcpus, i);

		if (error) {
			kvm_vcpus_destroy(vcpus);
			return error;
		}
	}
	*result = vcpus;
	return NULL;
}

void kvm_vcpus_destroy(struct kvm_vcpus *vcpus)
{
	if (!vcpus)
		return;
	pthread_mutex_lock(&vcpus->lock);
	vcpus->quitting = true;
	__atomic_fetch_add(&vcpus->stops, 1, __ATOMIC_SEQ_CST);
	kick_all(vcpus);
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
	for (uint32_t i = 0; i < vcpus->count; i++) {
		struct vcpu *vcpu = &vcpus->vcpus[i];

		if (vcpu->started)
			pthread_join(vcpu->thread, NULL);
		if (vcpu->run)
			munmap(vcpu->run, vcpus->vm->run_size);
		dirty_ring_close(&vcpu->dirty_ring);
		vcpu_faults_close(&vcpu->faults);
		close_fd(&vcpu->fd);
		cpu_state_free(vcpu->power_on);
		free(vcpu->cpuid);
	}
	pthread_cond_destroy(&vcpus->changed);
	pthread_mutex_destroy(&vcpus->lock);
	free(vcpus);
}

uint32_t kvm_vcpus_count(const struct kvm_vcpus *vcpus)
{
	return vcpus->count;
}

struct dirty_ring *kvm_vcpus_dirty_ring(struct kvm_vcpus *vcpus, uint32_t index)
{
	return &vcpus->vcpus[index].dirty_ring;
}

struct error *kvm_vcpus_reset(struct kvm_vcpus *vcpus, const struct kvm_boot_state *boot)
{
	for (uint32_t i = 0; i < vcpus->count; i++) {
		struct vcpu *vcpu = &vcpus->vcpus[i];

		TRY(error_prefix(cpu_state_restore(vcpu->fd, vcpu->power_on), "vCPU %u", i));
		if (i == 0)
			TRY(cpu_state_boot(vcpu->fd, boot));
	}
	pthread_mutex_lock(&vcpus->lock);
	for (uint32_t i = 0; i < vcpus->count; i++)
		vcpus->vcpus[i].halted = false;
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
	return NULL;
}

/* The thread is parked: what it does with `halted` and the descriptor stands still. */
static void vcpu_state(void *context, struct state *state)
{
	struct vcpu *vcpu = context;
	struct kvm_vm *vm = vcpu->all->vm;
	struct cpu_access access = {.kvm_fd = vm->kvm_fd, .vm_fd = vm->vm_fd, .vcpu_fd = vcpu->fd};

	pthread_mutex_lock(&vcpu->all->lock);
	state_bool(state, "stopped for good", &vcpu->halted);
	pthread_mutex_unlock(&vcpu->all->lock);
	cpu_state_visit(&access, &vcpu->cpuid, state);
}

void kvm_vcpus_state_part(struct kvm_vcpus *vcpus, uint32_t index, struct state_part *part)
{
	*part = (struct state_part){.name = CPU_SECTION,
				    .instance = index,
				    .version = CPU_SECTION_VERSION,
				    .visit = vcpu_state,
				    .context = &vcpus->vcpus[index]};
}

const struct kvm_cpuid2 *kvm_vcpus_cpuid(const struct kvm_vcpus *vcpus, uint32_t index)
{
	return vcpus->vcpus[index].cpuid;
}

void kvm_vcpus_statistics(const struct kvm_vcpus *vcpus, uint32_t index,
			  struct kvm_vcpu_statistics *statistics)
{
	const struct vcpu *vcpu = &vcpus->vcpus[index];
	struct timespec time = {0};
	clockid_t clock;

	*statistics = vcpu->statistics;
	statistics->dirty_pages = __atomic_load_n(&vcpu->dirty_ring.pages, __ATOMIC_RELAXED);
	if (vcpu->started && pthread_getcpuclockid(vcpu->thread, &clock) == 0)
		clock_gettime(clock, &time);
	statistics->cpu_ns = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t kvm_vcpus_written(struct kvm_vcpus *vcpus, uint32_t index)
{
	struct vcpu *vcpu = &vcpus->vcpus[index];

	return vcpu->dirty_ring.entries ? __atomic_load_n(&vcpu->dirty_ring.pages, __ATOMIC_RELAXED)
					: vcpu_faults_mended(&vcpu->faults);
}
