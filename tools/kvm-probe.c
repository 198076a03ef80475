// SPDX-License-Identifier: BSD-2-Clause
//
// Tells whether this machine's KVM can run stock 64-bit kernels, by running 64-bit code under it.
//
// Some machines have a /dev/kvm that works but emulates every guest instruction: tiny guests run
// there, a stock kernel would take hours or fail. No capability tells that, so this program creates
// a virtual machine as a stock kernel would want it (in-kernel interrupt controller, long mode,
// paging), runs a computation in it under a time limit and checks the result.
//
// Prints one line and exits with:
//   0  kvm: full               the long computation finished in time
//   3  kvm: mini-guests only   only the short one did
//   4  kvm: none               no usable /dev/kvm, or it computes wrongly; says why
//
// tools/kvm-probe compiles this on demand. It stands alone: it must work before godwit is built.

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

enum {
	EXIT_FULL = 0,
	EXIT_MINI_GUESTS = 3,
	EXIT_NONE = 4,

	// Hardware runs the long computation (3 instructions a round and an exit every 65,536) in
	// 20 to 50 ms, nested virtualisation under software emulation in about 0.1 s; an emulating
	// KVM does about a million instructions a second and would need a minute or more.
	SHORT_ROUNDS = 1000,
	LONG_ROUNDS = 30000000,
	TIME_LIMIT_MS = 1000,
	SHORT_TIME_LIMIT_MS = 3000,

	// Guest-physical layout: four page-table pages, the code, all identity-mapped with one 2
	// MiB page.
	MEMORY_SIZE = 2 << 20,
	PML4 = 0x1000,
	PDPT = 0x2000,
	PAGE_DIRECTORY = 0x3000,
	CODE = 0x8000,

	RESULT_PORT = 0x10,
};

// Two guests; rcx holds the rounds, and the result, twice the rounds, is in rax when a byte is
// written to a port. The small one uses what any emulator knows. The other one does what a kernel
// and its programs would do: every round adds 1 to each 64-bit half of xmm0 (SSE2), every 65,536th
// executes CPUID, which always exits to the host kernel, and loads CR3, which nested paging does
// without an exit.
__asm__(".pushsection .rodata\n"
	"guest_code:\n"
	"small_guest:\n"
	"    xorl  %eax, %eax\n"
	"1:  addq  $2, %rax\n"
	"    decq  %rcx\n"
	"    jnz   1b\n"
	"    outb  %al, $0x10\n"
	"large_guest:\n"
	"    movl  $1, %eax\n"
	"    movq  %rax, %xmm1\n"
	"    punpcklqdq %xmm1, %xmm1\n"
	"    pxor  %xmm0, %xmm0\n"
	"1:  paddq %xmm1, %xmm0\n"
	"    testw %cx, %cx\n"
	"    jnz   2f\n"
	"    movq  %rcx, %rsi\n"
	"    xorl  %eax, %eax\n"
	"    xorl  %ecx, %ecx\n"
	"    cpuid\n"
	"    movq  %rsi, %rcx\n"
	"    movq  %cr3, %rax\n"
	"    movq  %rax, %cr3\n"
	"2:  decq  %rcx\n"
	"    jnz   1b\n"
	"    movdqa %xmm0, %xmm1\n"
	"    punpckhqdq %xmm1, %xmm1\n"
	"    paddq %xmm1, %xmm0\n"
	"    movq  %xmm0, %rax\n"
	"    outb  %al, $0x10\n"
	"guest_code_end:\n"
	".popsection\n");
extern const uint8_t guest_code[], small_guest[], large_guest[], guest_code_end[];

enum outcome { RIGHT, TOO_SLOW, FAILED };

static char reason[160] = "unknown";

static enum outcome failed(const char *what)
{
	snprintf(reason, sizeof(reason), "%s: %s", what, strerror(errno));
	return FAILED;
}

// Exists so that KVM_RUN returns EINTR.
static void on_alarm(int signal_number)
{
	(void)signal_number;
}

static void put64(uint8_t *memory, size_t offset, uint64_t value)
{
	memcpy(memory + offset, &value, sizeof(value));
}

// Long mode needs this from the host: control registers, flat 64-bit code and data segments.
static int enter_long_mode(int vcpu, uint64_t entry, uint64_t rounds)
{
	struct kvm_sregs sregs;
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -1;
	sregs.cr3 = PML4;
	sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10;	    // PAE, OSFXSR, OSXMMEXCPT
	sregs.cr0 = 1U << 31 | 1 << 5 | 1 << 1 | 1; // PG, NE, MP, PE
	sregs.efer = 1 << 8 | 1 << 10;		    // LME, LMA
	struct kvm_segment code = {
	    .limit = 0xffffffff,
	    .selector = 8,
	    .type = 11,
	    .present = 1,
	    .s = 1,
	    .l = 1,
	    .g = 1,
	};
	struct kvm_segment data = {
	    .limit = 0xffffffff,
	    .selector = 16,
	    .type = 3,
	    .present = 1,
	    .s = 1,
	    .db = 1,
	    .g = 1,
	};
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0)
		return -1;
	struct kvm_regs regs = {.rip = entry, .rflags = 2, .rcx = rounds};
	return ioctl(vcpu, KVM_SET_REGS, &regs);
}

// A vCPU without a CPUID table has no long mode in the eyes of newer kernels.
static int give_cpuid(int kvm, int vcpu)
{
	enum { ENTRIES = 256 };
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(cpuid->entries[0]));
	if (!cpuid)
		return -1;
	cpuid->nent = ENTRIES;
	int result = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
	if (result == 0)
		result = ioctl(vcpu, KVM_SET_CPUID2, cpuid);
	free(cpuid);
	return result;
}

// Runs the guest at this entry for so many rounds within a time limit. Leaves its descriptors to
// the process's end.
static enum outcome run_guest(int kvm, const uint8_t *entry, uint64_t rounds, int limit_ms)
{
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return failed("KVM_CREATE_VM");
	uint8_t *memory =
	    mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return failed("mmap");
	put64(memory, PML4, PDPT | 3);
	put64(memory, PDPT, PAGE_DIRECTORY | 3);
	put64(memory, PAGE_DIRECTORY, 0x83); // present, writable, 2 MiB
	memcpy(memory + CODE, guest_code, (uintptr_t)guest_code_end - (uintptr_t)guest_code);

	struct kvm_userspace_memory_region region = {
	    .memory_size = MEMORY_SIZE,
	    .userspace_addr = (uintptr_t)memory,
	};
	if (ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000UL) < 0)
		return failed("KVM_SET_TSS_ADDR");
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return failed("KVM_SET_USER_MEMORY_REGION");
	if (ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0)
		return failed("KVM_CREATE_IRQCHIP");
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return failed("KVM_CREATE_VCPU");
	int run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (run_size < 0)
		return failed("KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_run *run =
	    mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		return failed("mmap of the vCPU");
	if (give_cpuid(kvm, vcpu) < 0)
		return failed("KVM_SET_CPUID2");
	if (enter_long_mode(vcpu, CODE + (uintptr_t)entry - (uintptr_t)guest_code, rounds) < 0)
		return failed("entering long mode");

	// Repeats, so that an alarm that comes just before KVM_RUN is not the only one.
	struct itimerval timer = {
	    .it_value = {limit_ms / 1000, limit_ms % 1000 * 1000},
	    .it_interval = {0, 20000},
	};
	setitimer(ITIMER_REAL, &timer, NULL);
	int result = ioctl(vcpu, KVM_RUN, 0);
	int error = errno;
	setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
	if (result < 0 && error == EINTR)
		return TOO_SLOW;
	if (result < 0) {
		errno = error;
		return failed("KVM_RUN");
	}
	struct kvm_regs regs;
	if (ioctl(vcpu, KVM_GET_REGS, &regs) < 0)
		return failed("KVM_GET_REGS");
	if (run->exit_reason != KVM_EXIT_IO || run->io.port != RESULT_PORT ||
	    regs.rax != 2 * rounds) {
		snprintf(reason, sizeof(reason),
			 "a guest of %llu rounds ended with exit %u and the result %llu",
			 (unsigned long long)rounds, run->exit_reason,
			 (unsigned long long)regs.rax);
		return FAILED;
	}
	return RIGHT;
}

int main(void)
{
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		printf("kvm: none (/dev/kvm: %s)\n", strerror(errno));
		return EXIT_NONE;
	}
	if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		printf("kvm: none (/dev/kvm does not speak KVM API version %d)\n", KVM_API_VERSION);
		return EXIT_NONE;
	}
	enum outcome outcome = run_guest(kvm, small_guest, SHORT_ROUNDS, SHORT_TIME_LIMIT_MS);
	if (outcome != RIGHT) {
		printf("kvm: none (%s)\n",
		       outcome == TOO_SLOW ? "a tiny guest does not end" : reason);
		return EXIT_NONE;
	}
	outcome = run_guest(kvm, large_guest, LONG_ROUNDS, TIME_LIMIT_MS);
	if (outcome != RIGHT) {
		printf("kvm: mini-guests only (%s)\n",
		       outcome == TOO_SLOW ? "it emulates guest instructions" : reason);
		return EXIT_MINI_GUESTS;
	}
	printf("kvm: full\n");
	return EXIT_FULL;
}
