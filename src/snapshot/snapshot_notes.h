/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Notes of a core file about processors (ELF gABI, "Note Section"), little-endian. Two for each:
 *
 *	"CORE", NT_PRSTATUS	general registers and selectors, the layout of Linux's struct
 *				elf_prstatus for x86-64; the thread id is the processor's number + 1
 *	"QEMU", 0		also segments, tables and control registers, the layout that QEMU's
 *				dump-guest-memory gave it (version 1): from IDT and CR3 crash finds
 *				where a kernel is that chose its addresses at random
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_NOTES_H
#define GODWIT_SNAPSHOT_SNAPSHOT_NOTES_H

#include <stdint.h>

#include "snapshot/snapshot_buffer.h"

struct snapshot_segment {
	uint64_t base;
	uint32_t limit; /* bytes - 1 */
	uint32_t flags; /* bits 8 to 23 of a descriptor's second word (Intel SDM 3A, 3.4.5) */
	uint16_t selector;
};

struct snapshot_processor {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags;
	struct snapshot_segment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt;
	uint64_t cr0, cr2, cr3, cr4;
	uint64_t kernel_gs_base;
};

/* Appends the notes of @count processors to @notes: gdb's of all, then crash's. */
void snapshot_notes_put(struct snapshot_buffer *notes, const struct snapshot_processor *processors,
			uint32_t count);

#endif
