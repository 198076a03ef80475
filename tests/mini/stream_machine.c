/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Takes along a machine with devices whose state is large (struct virtio_stream_ops):
 *
 *	stream_machine move KERNEL CMDLINE MIB CHANNELS [precopy | postcopy | refused]
 *	stream_machine save KERNEL CMDLINE MIB FILE
 *
 * `move`: from this process to a child, by a migration over TCP. `save`: to FILE, and from there into
 * another machine. The devices have MIB of state together, half of which they can emit while the guest
 * runs. Each process says with one line of JSON on stdout how it went; exit status 0: as it should.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "machine/machine_incoming.h"
#include "machine/machine_migrate.h"
#include "machine/machine_private.h"
#include "machine/machine_restore.h"
#include "machine/machine_save.h"

#define DEVICES	  4
#define PATTERN	  65521	 /* bytes, a prime: at no other place of a chunk does it begin again soon */
#define PIECE	  300007 /* bytes that are emitted at once */
#define RUN_MS	  50
#define WAIT_S	  60
#define SLOW	  1 /* the device that takes its time to load, and: */
#define SLOW_US	  300
#define DOWNTIME  1000 /* ms */
#define ADDRESSES 128

static uint8_t pattern[PATTERN + PIECE];
static bool refuses; /* the last device refuses the last of its state */

struct device {
	struct virtio_device device;
	uint32_t number;
	uint64_t size;	 /* bytes of its stream */
	uint64_t offset; /* so many are emitted, or loaded */
	uint64_t early;	 /* emitted while the guest ran */
	uint32_t saves, ends;
	bool whole; /* loaded to the last one */
};

/* All devices of a destination. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t begun; /* devices that have begun to load */
} loading = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void fail(struct error *error)
{
	if (!error)
		return;
	fprintf(stderr, "%s\n", error_message(error));
	exit(EXIT_FAILURE);
}

static void must(bool good, const char *what)
{
	if (!good)
		fail(error_new(0, "%s", what));
}

/* --- The device -------------------------------------------------------------------------------- */

static struct device *from_device(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct device, device);
}

/* At most PIECE bytes from @offset on. */
static const uint8_t *bytes_at(const struct device *device, uint64_t offset)
{
	return pattern + (offset + device->number * 1000) % PATTERN;
}

static struct error *save_stream(struct virtio_device *base, bool stopped, virtio_emit emit,
				 void *context)
{
	struct device *device = from_device(base);
	uint64_t end = stopped ? device->size : device->size / 2;

	must(device->device.quiesced || !stopped,
	     "a running device is to emit the last of its state");
	device->saves++;
	while (device->offset < end) {
		size_t size = MIN(end - device->offset, (uint64_t)PIECE);

		TRY(emit(context, bytes_at(device, device->offset), size));
		device->offset += size;
	}
	if (!stopped)
		device->early = device->offset;
	return NULL;
}

static void end_save(struct virtio_device *base)
{
	struct device *device = from_device(base);

	device->ends++;
	device->offset = 0;
}

/* Until all devices have begun: so all of them are being loaded at once. */
static struct error *meet(void)
{
	struct timespec until;
	bool met = true;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += WAIT_S;
	pthread_mutex_lock(&loading.lock);
	loading.begun++;
	pthread_cond_broadcast(&loading.changed);
	while (met && loading.begun < DEVICES)
		met = !pthread_cond_clockwait(&loading.changed, &loading.lock, CLOCK_MONOTONIC,
					      &until);
	pthread_mutex_unlock(&loading.lock);
	return met ? NULL : error_new(ETIMEDOUT, "devices wait for each other");
}

static struct error *load_stream(struct virtio_device *base, const void *bytes, size_t size,
				 bool last)
{
	struct device *device = from_device(base);

	if (!device->offset && !device->whole)
		TRY(meet());
	if (device->number == SLOW)
		usleep(SLOW_US);
	for (size_t done = 0; done < size; done += PIECE)
		if (memcmp((const uint8_t *)bytes + done, bytes_at(device, device->offset + done),
			   MIN(size - done, (size_t)PIECE)) != 0)
			return error_new(EBADMSG, "bytes are not those that were emitted");
	if (device->whole)
		return error_new(EBADMSG, "more after the last");
	if (refuses && last && device->number == DEVICES - 1)
		return error_new(EINVAL, "the bread has no butter");
	device->offset += size;
	device->whole = last;
	return NULL;
}

static const struct virtio_stream_ops stream_ops = {
    .save = save_stream, .end_save = end_save, .load = load_stream};

static void visit_state(struct virtio_device *base, struct state *state)
{
	struct device *device = from_device(base);

	state_same(state, "bytes", device->size);
	state_check(state, device->whole && device->offset == device->size, "stream",
		    "was not there before");
}

static void no_work(struct virtio_device *device)
{
}

static void no_queue(struct virtio_device *device, uint16_t queue)
{
}

static void destroy(struct virtio_device *base)
{
	virtio_device_cleanup(base);
	free(from_device(base));
}

static const struct virtio_device_ops device_ops = {
    .type = "virtio-stream",
    .id = VIRTIO_ID_RNG,
    .pci_class = 0x00ff00,
    .activate = no_work,
    .queue_notify = no_queue,
    .reset = no_work,
    .quiesce = no_work,
    .resume = no_work,
    .destroy = destroy,
};

static void plug(struct machine *machine, uint64_t all, struct device *devices[DEVICES])
{
	for (uint32_t i = 0; i < DEVICES; i++) {
		struct device *device = calloc(1, sizeof(*device));
		char id[16];

		snprintf(id, sizeof(id), "stream%u", i);
		fail(virtio_device_init(&device->device, &device_ops, visit_state, id, 1, 8));
		device->device.stream = &stream_ops;
		device->number = i;
		device->size = all >> (i < DEVICES - 1 ? i + 1 : i);
		devices[i] = device;
		fail(machine_plug(machine, &device->device));
	}
}

/* --- Machines ---------------------------------------------------------------------------------- */

static uint64_t status_kib(const char *field)
{
	AUTO_FCLOSE FILE *file = fopen("/proc/self/status", "r");
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, field, strlen(field)))
			return strtoull(line + strlen(field), NULL, 10);
	abort();
}

static struct machine *start(char **arguments, uint64_t all, struct event_loop *loop,
			     struct device *devices[DEVICES])
{
	struct machine_config config = {.cpus = 1, .memory_count = 1, .no_reboot = true};
	struct machine *machine;

	config.memory[0] = (struct machine_memory){
	    .size = MIB(16), .backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1}};
	config.name = strdup("streaming");
	config.kernel = strdup(arguments[0]);
	config.cmdline = strdup(arguments[1]);
	config.serial = strdup("null");
	fail(machine_create(&config, loop, NULL, NULL, &machine));
	plug(machine, all, devices);
	fail(machine_start(machine));
	return machine;
}

static void stop(void *context)
{
	event_loop_stop(context);
}

static void run(struct event_loop *loop, int ms)
{
	struct event_timer *timer;

	fail(event_timer_create(loop, stop, loop, &timer));
	event_timer_arm(timer, ms * NS_PER_MS);
	event_loop_run(loop);
	event_timer_destroy(timer);
}

struct ending {
	struct event_loop *loop;
	struct error *error;
	bool over;
};

static void done(void *context, struct error *error)
{
	struct ending *ending = context;

	ending->error = error;
	ending->over = true;
	event_loop_stop(ending->loop);
}

/* --- Moving ------------------------------------------------------------------------------------ */

static void tell_address(void *context, const char *address)
{
	dprintf(*(int *)context, "%s", address);
}

static void on_event(void *context, const char *event, json_t *data)
{
	const char *status = json_string_value(json_object_get(data, "status"));

	if (!strcmp(event, "MIGRATION") && status && !strcmp(status, "completed"))
		event_loop_stop(context);
}

/* A child: the destination. */
static void receive(uint64_t all, int address_fd)
{
	const struct machine_incoming_options options = {.address = "tcp:127.0.0.1:0",
							 .cancel_fd = -1,
							 .listening = tell_address,
							 .context = &address_fd};
	AUTO_EVENT_LOOP struct event_loop *loop = NULL;
	struct machine_incoming *incoming;
	struct device *devices[DEVICES];
	struct machine_config config;
	struct machine *machine;
	uint64_t before, peak;
	bool good;

	fail(event_loop_create(&loop));
	fail(machine_incoming_accept(&options, &incoming));
	fail(machine_incoming_config(incoming, &config));
	fail(machine_create(&config, loop, on_event, loop, &machine));
	plug(machine, all, devices);
	before = status_kib("VmRSS:");
	fail(machine_incoming_start(machine, incoming));
	event_loop_run(loop);
	peak = status_kib("VmHWM:");
	good = machine_state(machine) == MACHINE_RUNNING;
	for (uint32_t i = 0; i < DEVICES; i++)
		good &= devices[i]->whole && devices[i]->offset == devices[i]->size;
	printf("{\"side\": \"destination\", \"peak-kib\": %llu}\n",
	       (unsigned long long)(peak - before));
	machine_destroy(machine);
	exit(good ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void check_source(struct machine *machine, struct device *const *devices, const char *how,
			 const struct ending *ending)
{
	bool refused = !strcmp(how, "refused");

	must(ending->over, "the migration has not ended");
	if (refused) {
		must(ending->error, "it has moved");
		must(strstr(error_message(ending->error),
			    "virtio-stream/stream: the bread has no butter"),
		     error_message(ending->error));
		must(machine_state(machine) == MACHINE_RUNNING, "the guest does not go on");
	} else {
		fail(ending->error);
	}
	for (uint32_t i = 0; i < DEVICES; i++) {
		must(devices[i]->ends == 1, "the end of a save was not said once");
		must(devices[i]->saves > 1 || !strcmp(how, "postcopy"), "nothing was said early");
		must(devices[i]->early == (devices[i]->saves > 1 ? devices[i]->size / 2 : 0),
		     "something else was said early");
	}
}

static int move(char **arguments, const char *how)
{
	struct machine_migrate_options options = {
	    .channels = (uint32_t)atoi(arguments[3]), .downtime_ms = DOWNTIME, .stalled_rounds = 2};
	uint64_t all = MIB(strtoull(arguments[2], NULL, 10)), before;
	AUTO_EVENT_LOOP struct event_loop *loop = NULL;
	struct machine_migrate_progress progress;
	struct device *devices[DEVICES];
	char address[ADDRESSES] = "";
	struct machine_migrate *migrate;
	struct ending ending = {0};
	struct machine *machine;
	int status, fds[2];
	pid_t child;

	must(pipe(fds) == 0, "no pipe");
	refuses = !strcmp(how, "refused");
	child = fork();
	if (!child)
		receive(all, fds[1]);
	refuses = false;
	must(read(fds[0], address, sizeof(address) - 1) > 0, "nobody listens");
	fail(event_loop_create(&loop));
	ending.loop = loop;
	machine = start(arguments, all, loop, devices);
	run(loop, RUN_MS);
	options.address = address;
	options.mode =
	    !strcmp(how, "postcopy") ? MACHINE_MIGRATE_POSTCOPY : MACHINE_MIGRATE_PRECOPY;
	before = status_kib("VmRSS:");
	fail(machine_migrate_start(machine, &options, done, NULL, &ending, &migrate));
	event_loop_run(loop);
	machine_migrate_get_progress(migrate, &progress);
	printf("{\"side\": \"source\", \"peak-kib\": %llu, \"state-bytes\": %llu, "
	       "\"downtime-ns\": %lld}\n",
	       (unsigned long long)(status_kib("VmHWM:") - before),
	       (unsigned long long)progress.state_bytes, (long long)progress.downtime.total_ns);
	check_source(machine, devices, how, &ending);
	error_free(ending.error);
	machine_migrate_destroy(migrate);
	machine_destroy(machine);
	must(waitpid(child, &status, 0) == child, "the destination is not there");
	/* Where the guest was refused nobody has to be content. */
	return !strcmp(how, "refused") || status == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --- Saving ------------------------------------------------------------------------------------ */

static void restore(const char *path, uint64_t all)
{
	const struct machine_restore_options options = {.channels = 1};
	AUTO_EVENT_LOOP struct event_loop *loop = NULL;
	struct device *devices[DEVICES];
	struct machine_config config;
	struct snapshot_file *file;
	struct machine *machine;

	loading.begun = DEVICES; /* one after another */
	fail(event_loop_create(&loop));
	fail(snapshot_file_open(path, NULL, &file));
	fail(machine_restore_config(file, &config));
	fail(machine_create(&config, loop, NULL, NULL, &machine));
	plug(machine, all, devices);
	fail(machine_restore(machine, file, &options));
	must(machine_state(machine) == MACHINE_RUNNING, "the guest does not go on");
	for (uint32_t i = 0; i < DEVICES; i++)
		must(devices[i]->whole, "a stream was not loaded");
	machine_destroy(machine);
}

static int save(char **arguments)
{
	const struct machine_save_options options = {.path = arguments[3], .channels = 1};
	uint64_t all = MIB(strtoull(arguments[2], NULL, 10));
	AUTO_EVENT_LOOP struct event_loop *loop = NULL;
	struct device *devices[DEVICES];
	struct ending ending = {0};
	struct machine *machine;
	struct machine_save *saving;

	fail(event_loop_create(&loop));
	ending.loop = loop;
	machine = start(arguments, all, loop, devices);
	run(loop, RUN_MS);
	fail(machine_save_start(machine, &options, done, &ending, &saving));
	event_loop_run(loop);
	must(ending.over, "the save has not ended");
	machine_save_destroy(saving);
	must(machine_state(machine) == MACHINE_RUNNING, "the guest does not go on");
	must(devices[0]->ends == 1, "the end of a save was not said once");
	machine_destroy(machine);
	fail(ending.error);
	restore(arguments[3], all);
	return EXIT_SUCCESS;
}

int main(int count, char **arguments)
{
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i % PATTERN * 131 + i % PATTERN / 251);
	if (count == 7 && !strcmp(arguments[1], "move"))
		return move(arguments + 2, arguments[6]);
	if (count == 6 && !strcmp(arguments[1], "save"))
		return save(arguments + 2);
	return 2;
}
