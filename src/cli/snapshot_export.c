/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot export FILE OUT`: memory as a core file, or a block as it is. */
#include "snapshot/snapshot_export.h"

#include <string.h>

#include "cli/snapshot.h"
#include "kvm/cpu_registers.h"
#include "machine/machine.h"

static const struct cli_option options[] = {
    {"elf", CLI_FLAG, NULL,
     "guest-physical memory and the processors' registers as a\ncore file, for gdb and crash"},
    {"raw", CLI_REQUIRED, "BLOCK", "the bytes of a block; 'snapshot info' lists them"},
    SNAPSHOT_BASE_OPTION,
    {},
};

static struct error *find_block(const struct snapshot_file *file, const char *name,
				const struct snapshot_block **block)
{
	const char *names[SNAPSHOT_BLOCKS_MAX + 1] = {};
	const char *nearest;

	*block = snapshot_file_block(file, name);
	if (*block)
		return NULL;
	for (uint32_t i = 0; i < file->block_count; i++)
		names[i] = file->blocks[i].name;
	nearest = cli_nearest(name, names);
	return error_new(ENOENT, "%s has no block '%s': %s%s", file->path, name,
			 nearest ? "did you mean " : "'godwit snapshot info' lists them",
			 nearest ?: "");
}

/* --- Processors -------------------------------------------------------------------------------- */

static struct snapshot_segment segment_of(const struct kvm_segment *segment)
{
	return (struct snapshot_segment){
	    .selector = segment->selector,
	    .base = segment->base,
	    .limit = segment->limit,
	    .flags = (uint32_t)segment->type << 8 | (uint32_t)segment->s << 12 |
		     (uint32_t)segment->dpl << 13 | (uint32_t)segment->present << 15 |
		     (uint32_t)segment->avl << 20 | (uint32_t)segment->l << 21 |
		     (uint32_t)segment->db << 22 | (uint32_t)segment->g << 23,
	};
}

static struct snapshot_segment table_of(const struct kvm_dtable *table)
{
	return (struct snapshot_segment){.base = table->base, .limit = table->limit};
}

static struct snapshot_processor processor_of(const struct cpu_registers *registers)
{
	const struct kvm_regs *regs = &registers->general;
	const struct kvm_sregs2 *sregs = &registers->system;

	return (struct snapshot_processor){
	    .rax = regs->rax,
	    .rbx = regs->rbx,
	    .rcx = regs->rcx,
	    .rdx = regs->rdx,
	    .rsi = regs->rsi,
	    .rdi = regs->rdi,
	    .rsp = regs->rsp,
	    .rbp = regs->rbp,
	    .r8 = regs->r8,
	    .r9 = regs->r9,
	    .r10 = regs->r10,
	    .r11 = regs->r11,
	    .r12 = regs->r12,
	    .r13 = regs->r13,
	    .r14 = regs->r14,
	    .r15 = regs->r15,
	    .rip = regs->rip,
	    .rflags = regs->rflags,
	    .cs = segment_of(&sregs->cs),
	    .ds = segment_of(&sregs->ds),
	    .es = segment_of(&sregs->es),
	    .fs = segment_of(&sregs->fs),
	    .gs = segment_of(&sregs->gs),
	    .ss = segment_of(&sregs->ss),
	    .ldt = segment_of(&sregs->ldt),
	    .tr = segment_of(&sregs->tr),
	    .gdt = table_of(&sregs->gdt),
	    .idt = table_of(&sregs->idt),
	    .cr0 = sregs->cr0,
	    .cr2 = sregs->cr2,
	    .cr3 = sregs->cr3,
	    .cr4 = sregs->cr4,
	    .kernel_gs_base = registers->kernel_gs_base,
	};
}

/* Of @file's processors, in their order; QEMU's states we cannot read. */
static struct error *read_processors(const struct snapshot_file *file,
				     struct snapshot_processor processors[MACHINE_CPUS_MAX],
				     uint32_t *count)
{
	const struct snapshot_section *section;

	*count = 0;
	while (!file->foreign && *count < MACHINE_CPUS_MAX &&
	       (section = snapshot_file_section(file, CPU_SECTION, *count))) {
		struct cpu_registers registers;

		TRY(error_prefix(
		    cpu_registers_read(section->bytes, section->size, section->version, &registers),
		    "%s: processor %u", file->path, *count));
		processors[(*count)++] = processor_of(&registers);
	}
	return NULL;
}

static struct error *export_elf(const struct snapshot_file *file, const char *out,
				const struct snapshot_progress *progress, bool *assumed)
{
	AUTO_FREE struct snapshot_processor *processors =
	    calloc(MACHINE_CPUS_MAX, sizeof(*processors));
	uint32_t count;

	if (!processors)
		return error_system(ENOMEM, "processors");
	TRY(read_processors(file, processors, &count));
	return snapshot_export_elf(file, processors, count, out, progress, assumed);
}

/* ----------------------------------------------------------------------------------------------- */

static struct error *run_export(const struct cli_arguments *arguments, int *status)
{
	const char *raw = cli_value(arguments, "raw", NULL), *out = arguments->positional[1];
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	const struct snapshot_block *block = NULL;
	struct snapshot_bar bar;
	struct error *error;
	bool assumed = false;

	if (!raw == !cli_has(arguments, "elf"))
		return error_usage("give one of --elf and --raw BLOCK: what to export");
	TRY(snapshot_open_given(arguments, &file));
	if (raw)
		TRY(find_block(file, raw, &block));
	if (raw)
		error = snapshot_export_raw(block, out, snapshot_bar_begin(&bar, "exported"));
	else
		error = export_elf(file, out, snapshot_bar_begin(&bar, "exported"), &assumed);
	snapshot_bar_end(&bar);
	if (!error && assumed)
		fprintf(stderr,
			"godwit snapshot export: %s does not say where its memory is: this is "
			"right for %s unless max-ram-below-4g was given\n",
			file->path, file->machine);
	return error;
}

const struct cli_command cli_snapshot_export = {
    .name = "snapshot export",
    .positionals = "FILE OUT",
    .minimum = 2,
    .maximum = 2,
    .summary = "Write a snapshot's memory in another form",
    .description = "OUT is a new, sparse file. Every page is checked on its way.",
    .options = options,
    .run = run_export,
};
