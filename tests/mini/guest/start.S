/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where a mini-guest starts: PVH (32-bit, flat, no paging, ebx = start info), from there into 64-bit mode with the
 * first 32 GiB mapped one to one by pages of 2 MiB (a KVM that shadows page tables has no larger ones), SSE on, and on
 * to mini_main.
 */
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define CR0_PE_ET_NE_PG 0x80000031
#define CR4_PAE_OSFXSR 0x620
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define PAGE_2M_RW 0x83
#define MAPPED_GIB 32
#define TABLE_RW 0x3

	.section .note.pvh, "a", @note
	.long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long start32

	.section .text.start, "ax"
	.code32
	.globl start32
start32:
	cli
	movl $stack_top, %esp
	movl %ebx, start_info

	movl $level3 + TABLE_RW, level4
	movl $level3, %edi
	movl $level2 + TABLE_RW, %eax
	movl $MAPPED_GIB, %ecx
1:	movl %eax, (%edi)
	addl $4096, %eax
	addl $8, %edi
	loop 1b

	movl $level2, %edi
	movl $PAGE_2M_RW, %eax
	xorl %edx, %edx
	movl $MAPPED_GIB * 512, %ecx
2:	movl %eax, (%edi)
	movl %edx, 4(%edi)
	addl $0x200000, %eax
	adcl $0, %edx
	addl $8, %edi
	loop 2b

	movl $CR4_PAE_OSFXSR, %eax
	movl %eax, %cr4
	movl $level4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_LME, %eax
	wrmsr
	movl $CR0_PE_ET_NE_PG, %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $0x8, $start64

	.code64
start64:
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl %eax, %fs
	movl %eax, %gs
	lidt idt_pointer(%rip)
	movl start_info, %edi
	call mini_main
3:	hlt
	jmp 3b

	.section .data
	.balign 8
gdt:	.quad 0
	.quad 0x00af9b000000ffff /* 64-bit code */
	.quad 0x00cf93000000ffff /* data */
gdt_pointer:
	.word . - gdt - 1
	.long gdt
/* No handlers: an exception ends in a triple fault, which the test sees as a reset. mini.c may install some. */
idt_pointer:
	.word 0x1ff
	.quad mini_idt
start_info:
	.long 0

	.section .bss
	.balign 4096
level4:	.skip 4096
level3:	.skip 4096
level2:	.skip 4096 * MAPPED_GIB
	.skip 16384
stack_top:
	.section .note.GNU-stack, "", @progbits
