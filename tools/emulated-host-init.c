// SPDX-License-Identifier: BSD-2-Clause
//
// The first process of an emulated host; tools/emulated-host compiles it (static) and starts it.
//
// Two phases, because a host's state can be saved between them and many hosts started from it:
//   1. Mounts what the kernel offers, loads the modules listed in /modules/order, opens the ports
//      that lead to the outside (virtio-serial) and says "ready" on the control port.
//   2. Reads a job from the control port, mounts the outer machine's file system (9p) and makes it
//      the root, runs the job's command there, carries its output to the ports, writes "alive" on
//      the control port every few seconds, then "status N OUT ERR", and waits to be switched off.
//
// A job is a sequence of fields "key=value", each ended by a zero byte, and an empty field at the
// end; read_job has the list. Values are any bytes but zero.
//
// One thread, one poll loop. What fails in the first phase or before the command starts is reported
// as "failed TEXT" on the control port; the launcher shows it. Nothing here is hostile: the only
// peer is the launcher that wrote the job.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_FIELDS = 65536,
	MAX_JOB = 8 << 20,
	MAX_MOUNTS = 32,
	MAX_NETS = 8,
	DEVICE_WAIT_MS = 10000, // how long a hot-plugged device may take to appear
	ALIVE_SECONDS = 5,
};

// Where the outer machine's file system is mounted until it becomes the root.
#define NEW_ROOT "/newroot"
// Folders wait here while a tmpfs covers the place they came from.
#define STAGE "/stage"

static int control = -1;

struct folder {
	char
	    *tag; // 9p mount tag of a writable folder; NULL: a read-only one, seen through the root
	char *path;	// absolute
	char stage[32]; // where it is mounted until its place is ready
};

struct net {
	char *mac;
	char *address; // "10.77.0.1/24"
};

struct job {
	char **arguments; // NULL-terminated
	size_t argument_count;
	char **environment;
	size_t environment_count;
	char *directory;
	char *hostname;
	char *time;	  // seconds since 1970, with a fraction
	char *entropy;	  // any text nobody else was given
	char *disk_mount; // "vda /var/tmp": mount this disk's ext4 here
	long huge_2m, huge_1g;
	bool pass_stdin;
	struct folder folders[MAX_MOUNTS];
	size_t folder_count;
	struct net nets[MAX_NETS];
	size_t net_count;
};

static void write_all(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, bytes, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		bytes += n;
		length -= (size_t)n;
	}
}

// Ends a host that cannot do its job: the launcher reads the text and stops QEMU.
__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	char text[512];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (length < 0 || length >= (int)sizeof(text))
		length = sizeof(text) - 1;
	if (control >= 0)
		dprintf(control, "failed %.*s\n", length, text);
	fprintf(stderr, "emulated-host-init: %.*s\n", length, text);
	for (;;)
		pause();
}

static void *must_have(void *memory)
{
	if (!memory)
		fail("out of memory");
	return memory;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

// Makes a folder and those above it. Errors show when something is mounted there.
static void make_path(const char *path)
{
	char copy[4096];
	snprintf(copy, sizeof(copy), "%s", path);
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(copy, 0755);
		*slash = '/';
	}
	mkdir(copy, 0755);
}

static bool is_directory(const char *path)
{
	struct stat status;
	return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

// ---- phase 1
// ----------------------------------------------------------------------------------------

static void load_modules(void)
{
	FILE *order = fopen("/modules/order", "re");
	if (!order)
		return;
	char name[256];
	while (fscanf(order, "%255s", name) == 1) {
		char path[300];
		snprintf(path, sizeof(path), "/modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		// A module that finds no hardware says so and is no loss; a missing one shows at
		// its use.
		if (fd >= 0 && syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
			fprintf(stderr, "emulated-host-init: %s: %s\n", name, strerror(errno));
		if (fd >= 0)
			close(fd);
		unlink(path); // its memory would be part of every saved state
	}
	fclose(order);
}

// Opens the virtio-serial port of this name.
static int open_port(const char *wanted, int flags)
{
	DIR *ports = opendir("/sys/class/virtio-ports");
	if (!ports)
		return -1;
	int result = -1;
	for (struct dirent *entry; result < 0 && (entry = readdir(ports));) {
		char path[320], name[64] = "";
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		FILE *file = fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%63s", name) == 1 && strcmp(name, wanted) == 0) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			result = open(path, flags | O_CLOEXEC);
		}
		fclose(file);
	}
	closedir(ports);
	return result;
}

// The ports appear a little after their driver is loaded.
static int wait_for_port(const char *name, int flags)
{
	for (int waited = 0; waited < DEVICE_WAIT_MS; waited += 10) {
		int fd = open_port(name, flags);
		if (fd >= 0)
			return fd;
		usleep(10000);
	}
	return -1;
}

// ---- the job
// ----------------------------------------------------------------------------------------

static bool take(char *field, const char *key, char **value)
{
	size_t length = strlen(key);
	if (strncmp(field, key, length) != 0 || field[length] != '=')
		return false;
	*value = field + length + 1;
	return true;
}

static char *next_word(char **text)
{
	char *word = strsep(text, " ");
	return word ? word : (char *)"";
}

static void read_field(struct job *job, char *field)
{
	char *value;
	if (take(field, "argument", &value)) {
		job->arguments[job->argument_count++] = value;
	} else if (take(field, "environment", &value)) {
		job->environment[job->environment_count++] = value;
	} else if (take(field, "directory", &value)) {
		job->directory = value;
	} else if (take(field, "hostname", &value)) {
		job->hostname = value;
	} else if (take(field, "time", &value)) {
		job->time = value;
	} else if (take(field, "entropy", &value)) {
		job->entropy = value;
	} else if (take(field, "stdin", &value)) {
		job->pass_stdin = *value == '1';
	} else if (take(field, "hugepages-2m", &value)) {
		job->huge_2m = atol(value);
	} else if (take(field, "hugepages-1g", &value)) {
		job->huge_1g = atol(value);
	} else if (take(field, "disk", &value)) {
		job->disk_mount = value;
	} else if (take(field, "readable", &value)) {
		if (job->folder_count < MAX_MOUNTS)
			job->folders[job->folder_count++] = (struct folder){.path = value};
	} else if (take(field, "writable", &value)) { // TAG PATH
		char *tag = next_word(&value);
		if (job->folder_count < MAX_MOUNTS)
			job->folders[job->folder_count++] =
			    (struct folder){.tag = tag, .path = value};
	} else if (take(field, "net", &value)) { // MAC ADDRESS/BITS
		char *mac = next_word(&value);
		if (job->net_count < MAX_NETS)
			job->nets[job->net_count++] = (struct net){.mac = mac, .address = value};
	} else {
		fail("unknown field in the job: %s", field);
	}
}

// Reads fields up to the empty one. The memory lives as long as the process.
static void read_job(struct job *job)
{
	char *buffer = must_have(malloc(MAX_JOB));
	job->arguments = must_have(calloc(MAX_FIELDS + 1, sizeof(char *)));
	job->environment = must_have(calloc(MAX_FIELDS + 1, sizeof(char *)));
	size_t used = 0, field = 0, fields = 0;
	for (;;) {
		ssize_t n = read(control, buffer + used, MAX_JOB - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			// No launcher is connected yet; the port gives an end of file until one is.
			usleep(5000);
			continue;
		}
		used += (size_t)n;
		for (char *end; (end = memchr(buffer + field, 0, used - field));
		     field = (size_t)(end + 1 - buffer)) {
			if (end == buffer + field)
				return;
			if (++fields > MAX_FIELDS)
				fail("the job has more than %d fields", MAX_FIELDS);
			read_field(job, buffer + field);
		}
		if (used == MAX_JOB)
			fail("the job is larger than %d bytes", MAX_JOB);
	}
}

// ---- phase 2: time, chance, mounts, network
// ---------------------------------------------------------

static void set_clock(const char *text)
{
	if (!text)
		return;
	char *end;
	struct timespec now = {.tv_sec = strtoll(text, &end, 10)};
	if (*end == '.')
		now.tv_nsec = (long)(strtod(end, NULL) * 1e9);
	clock_settime(CLOCK_REALTIME, &now);
}

// Hosts that start from one saved state would otherwise draw the same random numbers.
static void add_entropy(const char *text)
{
	enum { MOST = 256 };
	_Alignas(struct rand_pool_info) char memory[sizeof(struct rand_pool_info) + MOST] = {0};
	struct rand_pool_info *pool = (struct rand_pool_info *)memory;
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	if (fd < 0 || !text)
		return;
	size_t length = strnlen(text, MOST);
	memcpy(pool->buf, text, length);
	pool->buf_size = (int)length;
	pool->entropy_count = (int)length * 4; // it is hexadecimal: four bits a byte
	ioctl(fd, RNDADDENTROPY, pool);
	ioctl(fd, RNDRESEEDCRNG);
	close(fd);
}

static void mount_9p(const char *tag, const char *where, unsigned long flags, const char *cache)
{
	char options[128];
	snprintf(options, sizeof(options), "trans=virtio,version=9p2000.L,msize=512000,cache=%s",
		 cache);
	// A hot-plugged one may take a moment to appear.
	for (int waited = 0; waited < DEVICE_WAIT_MS; waited += 10) {
		if (mount(tag, where, "9p", flags, options) == 0)
			return;
		if (errno != ENOENT)
			break;
		usleep(10000);
	}
	fail("cannot mount %s of the outer machine at %s: %s", tag, where, strerror(errno));
}

// Mounts over a folder of the new root; a machine that lacks the folder goes without.
static void mount_in(const char *source, const char *path, const char *type, const char *options)
{
	char where[256];
	snprintf(where, sizeof(where), NEW_ROOT "%s", path);
	if (!is_directory(where))
		return;
	if (mount(source, where, type, 0, options) < 0)
		fail("cannot mount %s at %s: %s", type, path, strerror(errno));
}

// 9p answers slowly for a folder's first look-up; both caches are those measured to be right:
// "loose" for the root, which nothing changes from here, "mmap" for writable folders, which the
// outer machine must see at once and programs may map.
static void mount_root(struct job *job)
{
	mkdir(NEW_ROOT, 0755);
	mkdir(STAGE, 0755);
	mount_9p("root", NEW_ROOT, MS_RDONLY, "loose");

	// Take hold of each folder before a tmpfs covers it.
	for (size_t i = 0; i < job->folder_count; i++) {
		struct folder *folder = &job->folders[i];
		char source[4096];
		snprintf(folder->stage, sizeof(folder->stage), STAGE "/%zu", i);
		snprintf(source, sizeof(source), NEW_ROOT "%s", folder->path);
		mkdir(folder->stage, 0755);
		if (folder->tag)
			mount_9p(folder->tag, folder->stage, 0, "mmap");
		else if (mount(source, folder->stage, NULL, MS_BIND, NULL) < 0)
			fail("cannot show %s: %s", folder->path, strerror(errno));
	}

	mount_in("proc", "/proc", "proc", NULL);
	mount_in("sysfs", "/sys", "sysfs", NULL);
	mount_in("cgroup2", "/sys/fs/cgroup", "cgroup2", NULL);
	mount_in("debugfs", "/sys/kernel/debug", "debugfs", NULL);
	mount_in("tracefs", "/sys/kernel/tracing", "tracefs", NULL);
	mount_in("devtmpfs", "/dev", "devtmpfs", NULL);
	static const char *const device_folders[] = {"/dev/pts",	  "/dev/shm",
						     "/dev/mqueue",	  "/dev/hugepages",
						     "/dev/hugepages-1g", "/dev/net"};
	for (size_t i = 0; i < sizeof(device_folders) / sizeof(device_folders[0]); i++) {
		char path[64];
		snprintf(path, sizeof(path), NEW_ROOT "%s", device_folders[i]);
		mkdir(path, 0755);
	}
	mount_in("devpts", "/dev/pts", "devpts", "ptmxmode=0666,gid=5,mode=620");
	mount_in("tmpfs", "/dev/shm", "tmpfs", "mode=1777,size=100%");
	mount_in("mqueue", "/dev/mqueue", "mqueue", NULL);
	mount_in("hugetlbfs", "/dev/hugepages", "hugetlbfs", "pagesize=2M");
	mount_in("hugetlbfs", "/dev/hugepages-1g", "hugetlbfs", "pagesize=1G");
	mount_in("tmpfs", "/run", "tmpfs", "mode=755");
	mount_in("tmpfs", "/tmp", "tmpfs", "mode=1777,size=100%");
	mount_in("tmpfs", "/var/tmp", "tmpfs", "mode=1777,size=100%");
	symlink("/proc/self/fd", NEW_ROOT "/dev/fd");
	symlink("/proc/self/fd/0", NEW_ROOT "/dev/stdin");
	symlink("/proc/self/fd/1", NEW_ROOT "/dev/stdout");
	symlink("/proc/self/fd/2", NEW_ROOT "/dev/stderr");
	make_path(NEW_ROOT "/run/lock");
	make_path(NEW_ROOT "/run/netns");

	for (size_t i = 0; i < job->folder_count; i++) {
		struct folder *folder = &job->folders[i];
		char where[4096];
		snprintf(where, sizeof(where), NEW_ROOT "%s", folder->path);
		make_path(where);
		if (mount(folder->stage, where, NULL, MS_MOVE, NULL) < 0)
			fail("cannot mount %s: %s", folder->path, strerror(errno));
	}

	// What switch_root does: programs that make user namespaces refuse to run in a mere chroot.
	if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		fail("cannot make the outer machine's file system the root: %s", strerror(errno));
}

static void mount_disk(char *text)
{
	if (!text)
		return;
	char device[64];
	snprintf(device, sizeof(device), "/dev/%s", next_word(&text));
	for (int waited = 0; waited < DEVICE_WAIT_MS; waited += 10) {
		if (mount(device, text, "ext4", 0, NULL) == 0) {
			chmod(text, 01777);
			return;
		}
		if (errno != ENOENT)
			break;
		usleep(10000);
	}
	fail("cannot mount the scratch disk %s at %s: %s", device, text, strerror(errno));
}

// Finds the interface with this hardware address, waiting for it to appear.
static void find_interface(int sock, const char *mac, char name[IFNAMSIZ])
{
	for (int waited = 0; waited < DEVICE_WAIT_MS; waited += 10) {
		DIR *interfaces = opendir("/sys/class/net");
		for (struct dirent *entry; interfaces && (entry = readdir(interfaces));) {
			struct ifreq request = {0};
			if (strlen(entry->d_name) >= IFNAMSIZ || entry->d_name[0] == '.')
				continue;
			strcpy(request.ifr_name, entry->d_name);
			if (ioctl(sock, SIOCGIFHWADDR, &request) < 0)
				continue;
			const uint8_t *b = (const uint8_t *)request.ifr_hwaddr.sa_data;
			char text[24];
			snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1],
				 b[2], b[3], b[4], b[5]);
			if (strcasecmp(text, mac) == 0) {
				strcpy(name, request.ifr_name);
				closedir(interfaces);
				return;
			}
		}
		if (interfaces)
			closedir(interfaces);
		usleep(10000);
	}
	fail("no network interface %s appeared", mac);
}

static void set_address(struct ifreq *request, struct in_addr address)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&request->ifr_addr;
	*in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = address};
}

static void interface_up(int sock, const char *name)
{
	struct ifreq request = {0};
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(sock, SIOCGIFFLAGS, &request) == 0) {
		request.ifr_flags |= IFF_UP;
		if (ioctl(sock, SIOCSIFFLAGS, &request) == 0)
			return;
	}
	fail("cannot set the network interface %s up: %s", name, strerror(errno));
}

static void set_up_network(struct job *job)
{
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		fail("no network: %s", strerror(errno));
	interface_up(sock, "lo");
	for (size_t i = 0; i < job->net_count; i++) {
		struct ifreq request = {0};
		struct in_addr address;
		char *bits = strchr(job->nets[i].address, '/');
		int prefix = bits ? atoi(bits + 1) : 24;
		if (bits)
			*bits = 0;
		find_interface(sock, job->nets[i].mac, request.ifr_name);
		if (inet_aton(job->nets[i].address, &address) == 0 || prefix < 1 || prefix > 32)
			fail("'%s' is no address", job->nets[i].address);
		set_address(&request, address);
		if (ioctl(sock, SIOCSIFADDR, &request) < 0)
			fail("cannot set the address of %s: %s", request.ifr_name, strerror(errno));
		set_address(&request,
			    (struct in_addr){htonl((uint32_t)(UINT64_MAX << (32 - prefix)))});
		if (ioctl(sock, SIOCSIFNETMASK, &request) < 0)
			fail("cannot set the netmask of %s: %s", request.ifr_name, strerror(errno));
		interface_up(sock, request.ifr_name);
	}
	close(sock);
}

static void reserve_huge_pages(const char *kilobytes, long pages)
{
	char path[128], text[32] = "";
	if (pages == 0)
		return;
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%skB/nr_hugepages",
		 kilobytes);
	snprintf(text, sizeof(text), "%ld", pages);
	write_file(path, text);
	FILE *file = fopen(path, "re");
	long got = 0;
	if (file && fscanf(file, "%ld", &got) != 1)
		got = 0;
	if (file)
		fclose(file);
	if (got < pages)
		fail("only %ld of %ld huge pages of %s KiB could be reserved: give the host more "
		     "--memory",
		     got, pages, kilobytes);
}

// ---- phase 2: the command
// ---------------------------------------------------------------------------

// One direction of the command's input or output. An end that is closed is -1.
struct pipe_pump {
	int from, to;
	char buffer[65536];
	size_t start, end; // what is read and not yet written
	uint64_t total;	   // bytes written
};

// Moves what can be moved now. Returns false when this direction is done.
static bool pump(struct pipe_pump *p)
{
	if (p->start == p->end) {
		ssize_t n = read(p->from, p->buffer, sizeof(p->buffer));
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (n == 0)
			return false;
		p->start = 0;
		p->end = (size_t)n;
	}
	ssize_t n = write(p->to, p->buffer + p->start, p->end - p->start);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	p->start += (size_t)n;
	p->total += (uint64_t)n;
	return true;
}

static void close_pump(struct pipe_pump *p)
{
	if (p->from >= 0)
		close(p->from);
	if (p->to >= 0)
		close(p->to);
	p->from = p->to = -1;
}

// Writes all that is left in a pipe, without waiting for those who still hold its other end.
static void drain(struct pipe_pump *p)
{
	if (p->from < 0)
		return;
	fcntl(p->to, F_SETFL, 0);
	do {
		write_all(p->to, p->buffer + p->start, p->end - p->start);
		p->total += p->end - p->start;
		p->start = p->end = 0;
		ssize_t n = read(p->from, p->buffer, sizeof(p->buffer));
		p->end = n > 0 ? (size_t)n : 0;
	} while (p->end > 0);
	close_pump(p);
}

// In the child: becomes the command. 127 and 126 are what a shell says.
__attribute__((noreturn)) static void become(struct job *job, const int standard[3])
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	for (int i = 0; i < 3; i++)
		dup2(standard[i], i);
	if (job->directory && chdir(job->directory) < 0) {
		dprintf(2, "emulated-host: cannot enter %s: %s\n", job->directory, strerror(errno));
		_exit(126);
	}
	const char *path =
	    getenv("PATH"); // of this process; the command's own is in its environment
	for (char **variable = job->environment; *variable; variable++)
		if (strncmp(*variable, "PATH=", 5) == 0)
			path = *variable + 5;
	if (path)
		setenv("PATH", path, 1);
	execvpe(job->arguments[0], job->arguments, job->environment);
	int error = errno;
	dprintf(2, "emulated-host: cannot run %s: %s\n", job->arguments[0], strerror(error));
	_exit(error == ENOENT ? 127 : 126);
}

static void make_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC) < 0)
		fail("cannot make a pipe: %s", strerror(errno));
}

// Reaps whatever has ended. True, and the shell's kind of status, when the command has.
static bool reap(pid_t command, int *status)
{
	bool ended = false;
	int raw;
	for (pid_t pid; (pid = waitpid(-1, &raw, WNOHANG)) > 0;) {
		if (pid != command)
			continue;
		*status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
		ended = true;
	}
	return ended;
}

// By this the launcher tells a host that stands still from a command that takes long.
static void say_alive(struct timespec *last)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (last->tv_sec && now.tv_sec - last->tv_sec < ALIVE_SECONDS)
		return;
	*last = now;
	dprintf(control, "alive\n");
}

static int run_command(struct job *job, int in_port, struct pipe_pump *out, struct pipe_pump *error)
{
	static struct pipe_pump in = {.from = -1, .to = -1};
	int in_pipe[2], out_pipe[2], error_pipe[2];
	make_pipe(in_pipe);
	make_pipe(out_pipe);
	make_pipe(error_pipe);

	// SIGCHLD must end a wait, and only a wait.
	sigset_t child_signal, usual;
	sigemptyset(&child_signal);
	sigaddset(&child_signal, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_signal, &usual);

	pid_t command = fork();
	if (command < 0)
		fail("cannot fork: %s", strerror(errno));
	if (command == 0)
		become(job, (int[3]){in_pipe[0], out_pipe[1], error_pipe[1]});
	close(in_pipe[0]);
	close(out_pipe[1]);
	close(error_pipe[1]);
	dprintf(control, "started\n");

	in.from = in_port, in.to = in_pipe[1];
	out->from = out_pipe[0];
	error->from = error_pipe[0];
	if (!job->pass_stdin)
		close_pump(&in);
	struct pipe_pump *all[] = {&in, out, error};
	for (size_t i = 0; i < 3; i++) {
		if (all[i]->from < 0)
			continue;
		fcntl(all[i]->from, F_SETFL, O_NONBLOCK);
		fcntl(all[i]->to, F_SETFL, O_NONBLOCK);
	}

	int status = 0;
	struct timespec alive = {0};
	while (!reap(command, &status)) {
		struct pollfd polls[6];
		nfds_t count = 0;
		for (size_t i = 0; i < 3; i++) {
			bool full = all[i]->start < all[i]->end;
			polls[count++] =
			    (struct pollfd){.fd = full ? -1 : all[i]->from, .events = POLLIN};
			// Without events: tells when nobody reads the command's input any more.
			polls[count++] =
			    (struct pollfd){.fd = all[i]->to, .events = full ? POLLOUT : 0};
		}
		say_alive(&alive);
		ppoll(polls, count, &(struct timespec){.tv_sec = ALIVE_SECONDS}, &usual);
		for (size_t i = 0; i < 3; i++) {
			bool ready = polls[2 * i].revents || polls[2 * i + 1].revents;
			if (all[i]->from < 0 || !ready)
				continue;
			// The host's end of an output port is always there; POLLHUP on it means
			// that it has gone.
			if (!pump(all[i]) || (i == 0 && polls[1].revents & POLLERR))
				close_pump(all[i]);
		}
	}
	// The command has ended; what it wrote is in the pipes. Others may still hold them.
	drain(out);
	drain(error);
	return status;
}

// The bytes written to each port go with the status: the three ports are separate queues, and the
// launcher must not switch the host off before it has them all.
static void finish(struct job *job, int status, uint64_t out_total, uint64_t error_total)
{
	// What was written must be outside before the host is switched off.
	kill(-1, SIGKILL);
	sync();
	for (size_t i = job->folder_count; i-- > 0;)
		umount2(job->folders[i].path, MNT_DETACH);
	sync();
	dprintf(control, "status %d %llu %llu\n", status, (unsigned long long)out_total,
		(unsigned long long)error_total);
	for (;;)
		pause();
}

static void on_signal(int signal_number)
{
	(void)signal_number;
}

int main(void)
{
	static struct job job;
	static struct pipe_pump out = {.from = -1}, error = {.from = -1};
	sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_signal, .sa_flags = SA_RESTART},
		  NULL);
	signal(SIGPIPE, SIG_IGN);

	mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	load_modules();
	control = wait_for_port("control", O_RDWR);
	int in_port = wait_for_port("stdin", O_RDONLY);
	out.to = wait_for_port("stdout", O_WRONLY);
	error.to = wait_for_port("stderr", O_WRONLY);
	if (control < 0 || in_port < 0 || out.to < 0 || error.to < 0)
		fail("a port to the outside is missing");
	dprintf(control, "ready\n");

	read_job(&job);
	set_clock(job.time);
	add_entropy(job.entropy);
	if (job.hostname)
		sethostname(job.hostname, strlen(job.hostname));
	struct rlimit files = {1048576, 1048576};
	setrlimit(RLIMIT_NOFILE, &files);
	struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	mount_root(&job);
	mount_disk(job.disk_mount);
	set_up_network(&job);
	reserve_huge_pages("2048", job.huge_2m);
	reserve_huge_pages("1048576", job.huge_1g);
	int status = run_command(&job, in_port, &out, &error);
	finish(&job, status, out.total, error.total);
}
