/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The notes of snapshot_notes.h. On the caller's thread; nothing can fail but memory, which the
 * buffer remembers. The guest controls the registers' values, which are only copied.
 */
#include "snapshot/snapshot_notes.h"

#include <elf.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"

#define NAME_SIZE 8 /* "CORE" or "QEMU", its NUL, and 3 bytes that align what follows */

#define PRSTATUS_SIZE	   336
#define PRSTATUS_PID	   32
#define PRSTATUS_REGISTERS 112 /* 27 of 8 bytes; then whether there are floating-point ones: no */

#define QEMU_NOTE_TYPE	  0
#define QEMU_NOTE_VERSION 1
#define QEMU_NOTE_SIZE	  440

static void put_header(uint8_t *at, const char *name, uint32_t type, uint32_t size)
{
	put_le32(at + offsetof(Elf64_Nhdr, n_namesz), (uint32_t)strlen(name) + 1);
	put_le32(at + offsetof(Elf64_Nhdr, n_descsz), size);
	put_le32(at + offsetof(Elf64_Nhdr, n_type), type);
	memcpy(at + sizeof(Elf64_Nhdr), name, strlen(name));
}

/* Appends a note and returns where its content of @size zeros is; NULL: no memory. */
static uint8_t *add_note(struct snapshot_buffer *notes, const char *name, uint32_t type,
			 uint32_t size)
{
	const size_t front = sizeof(Elf64_Nhdr) + NAME_SIZE;
	uint8_t *at = snapshot_buffer_grow(notes, front + size);

	if (!at)
		return NULL;
	memset(at, 0, front + size);
	put_header(at, name, type, size);
	return at + front;
}

static uint8_t *put_words(uint8_t *at, const uint64_t *words, size_t count)
{
	for (size_t i = 0; i < count; i++, at += sizeof(uint64_t))
		put_le64(at, words[i]);
	return at;
}

/* Linux: struct user_regs_struct of x86-64; there is no system call, hence no orig_rax. */
static void put_prstatus(uint8_t *at, const struct snapshot_processor *cpu, uint32_t number)
{
	const uint64_t registers[] = {
	    cpu->r15,	      cpu->r14,	       cpu->r13,	 cpu->r12,	   cpu->rbp,
	    cpu->rbx,	      cpu->r11,	       cpu->r10,	 cpu->r9,	   cpu->r8,
	    cpu->rax,	      cpu->rcx,	       cpu->rdx,	 cpu->rsi,	   cpu->rdi,
	    UINT64_MAX,	      cpu->rip,	       cpu->cs.selector, cpu->rflags,	   cpu->rsp,
	    cpu->ss.selector, cpu->fs.base,    cpu->gs.base,	 cpu->ds.selector, cpu->es.selector,
	    cpu->fs.selector, cpu->gs.selector};

	put_le32(at + PRSTATUS_PID, number + 1);
	put_words(at + PRSTATUS_REGISTERS, registers, ARRAY_SIZE(registers));
}

static uint8_t *put_segment(uint8_t *at, const struct snapshot_segment *segment)
{
	put_le32(at, segment->selector);
	put_le32(at + 4, segment->limit);
	put_le32(at + 8, segment->flags);
	put_le64(at + 16, segment->base);
	return at + 24;
}

static void put_qemu(uint8_t *at, const struct snapshot_processor *cpu)
{
	const uint64_t registers[] = {cpu->rax, cpu->rbx, cpu->rcx,   cpu->rdx, cpu->rsi,
				      cpu->rdi, cpu->rsp, cpu->rbp,   cpu->r8,	cpu->r9,
				      cpu->r10, cpu->r11, cpu->r12,   cpu->r13, cpu->r14,
				      cpu->r15, cpu->rip, cpu->rflags};
	const struct snapshot_segment *const segments[] = {&cpu->cs,  &cpu->ds, &cpu->es,  &cpu->fs,
							   &cpu->gs,  &cpu->ss, &cpu->ldt, &cpu->tr,
							   &cpu->gdt, &cpu->idt};
	const uint64_t control[] = {cpu->cr0, 0, cpu->cr2, cpu->cr3, cpu->cr4, cpu->kernel_gs_base};

	put_le32(at, QEMU_NOTE_VERSION);
	put_le32(at + 4, QEMU_NOTE_SIZE);
	at = put_words(at + 8, registers, ARRAY_SIZE(registers));
	for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
		at = put_segment(at, segments[i]);
	put_words(at, control, ARRAY_SIZE(control));
}

void snapshot_notes_put(struct snapshot_buffer *notes, const struct snapshot_processor *processors,
			uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *at = add_note(notes, "CORE", NT_PRSTATUS, PRSTATUS_SIZE);

		if (at)
			put_prstatus(at, &processors[i], i);
	}
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *at = add_note(notes, "QEMU", QEMU_NOTE_TYPE, QEMU_NOTE_SIZE);

		if (at)
			put_qemu(at, &processors[i]);
	}
}
