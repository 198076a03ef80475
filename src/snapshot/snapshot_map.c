/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counting and drawing, snapshot_map.h. A block is drawn as rows of cells; a cell has the colour of
 * what most of its pages are, and neighbours of one colour are one rectangle.
 */
#include "snapshot/snapshot_map.h"

#include <inttypes.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/size.h"
#include "snapshot/snapshot_parts.h"

#define COLUMNS	   128
#define ROWS_MAX   48 /* of a block */
#define CELL	   7  /* pixels */
#define LEFT	   16
#define TEXT_LINE  18
#define WIDTH	   (2 * LEFT + COLUMNS * CELL)
#define HEADER	   64
#define FOOT_SPACE 16

static const struct {
	const char *name, *colour;
} kinds[SNAPSHOT_PAGE_KINDS] = {
    [SNAPSHOT_PAGE_STORED] = {"stored", "#1f6feb"},
    [SNAPSHOT_PAGE_INHERITED] = {"as in the base", "#a8c7fa"},
    [SNAPSHOT_PAGE_ZERO] = {"zero", "#e6e6e6"},
    [SNAPSHOT_PAGE_UNPLUGGED] = {"unplugged", "#5c5c5c"},
};

/* Counts the pages [@first, @first + @count). @plugged's bits may be NULL. */
static void count_pages(const struct snapshot_block *block, const struct snapshot_plugged *plugged,
			uint64_t first, uint64_t count, uint64_t counts[SNAPSHOT_PAGE_KINDS])
{
	uint64_t end = first + count;

	memset(counts, 0, SNAPSHOT_PAGE_KINDS * sizeof(*counts));
	while (plugged->bits && first < end) {
		uint64_t unit = plugged->unit / SNAPSHOT_PAGE_SIZE;
		uint64_t next = MIN((first / unit + 1) * unit, end);

		if (bitmap_test(plugged->bits, first / unit)) {
			counts[SNAPSHOT_PAGE_STORED] +=
			    bitmap_count_range(block->stored, first, next - first);
			if (block->inherited)
				counts[SNAPSHOT_PAGE_INHERITED] +=
				    bitmap_count_range(block->inherited, first, next - first);
		} else {
			counts[SNAPSHOT_PAGE_UNPLUGGED] += next - first;
		}
		first = next;
	}
	if (!plugged->bits) {
		counts[SNAPSHOT_PAGE_STORED] = bitmap_count_range(block->stored, first, count);
		if (block->inherited)
			counts[SNAPSHOT_PAGE_INHERITED] =
			    bitmap_count_range(block->inherited, first, count);
	}
	counts[SNAPSHOT_PAGE_ZERO] = count - counts[SNAPSHOT_PAGE_STORED] -
				     counts[SNAPSHOT_PAGE_INHERITED] -
				     counts[SNAPSHOT_PAGE_UNPLUGGED];
}

struct error *snapshot_block_count(const struct snapshot_block *block,
				   uint64_t counts[SNAPSHOT_PAGE_KINDS])
{
	struct snapshot_plugged plugged;

	TRY(snapshot_block_plugged(block, &plugged));
	count_pages(block, &plugged, 0, snapshot_block_pages(block), counts);
	free(plugged.bits);
	return NULL;
}

uint64_t snapshot_block_allocated(const struct snapshot_block *block)
{
	off_t end = (off_t)(block->pages_offset + block->size), hole;
	off_t data = lseek(block->file->fd, (off_t)block->pages_offset, SEEK_DATA);
	uint64_t allocated = 0;

	while (data >= 0 && data < end) {
		hole = lseek(block->file->fd, data, SEEK_HOLE);
		if (hole < 0)
			break;
		allocated += (uint64_t)(MIN(hole, end) - data);
		data = lseek(block->file->fd, hole, SEEK_DATA);
	}
	return allocated;
}

/* --- Drawing ----------------------------------------------------------------------------------- */

/* Pages of a cell so that the block has at most ROWS_MAX rows; a power of two. */
static uint64_t cell_pages(uint64_t pages)
{
	uint64_t cell = 1;

	while (cell * COLUMNS * ROWS_MAX < pages)
		cell *= 2;
	return cell;
}

static uint64_t block_rows(const struct snapshot_block *block)
{
	uint64_t pages = snapshot_block_pages(block), row = cell_pages(pages) * COLUMNS;

	return (pages + row - 1) / row;
}

/* Names come from the file: what XML gives a meaning to is left out. */
static void print_text(FILE *stream, const char *text)
{
	for (; *text; text++)
		putc(*text < ' ' || *text > '~' || strchr("<>&\"'", *text) ? '?' : *text, stream);
}

static int cell_kind(const struct snapshot_block *block, const struct snapshot_plugged *plugged,
		     uint64_t cell, uint64_t pages_of_cell)
{
	uint64_t counts[SNAPSHOT_PAGE_KINDS], first = cell * pages_of_cell;
	int most = 0;

	count_pages(block, plugged, first, MIN(pages_of_cell, snapshot_block_pages(block) - first),
		    counts);
	for (int kind = 1; kind < SNAPSHOT_PAGE_KINDS; kind++)
		if (counts[kind] > counts[most])
			most = kind;
	return most;
}

static void draw_cells(FILE *stream, const struct snapshot_block *block,
		       const struct snapshot_plugged *plugged, uint64_t top)
{
	uint64_t pages = cell_pages(snapshot_block_pages(block));
	uint64_t cells = (snapshot_block_pages(block) + pages - 1) / pages;

	for (uint64_t cell = 0, run; cell < cells; cell += run) {
		int kind = cell_kind(block, plugged, cell, pages);

		for (run = 1; (cell + run) % COLUMNS && cell + run < cells &&
			      cell_kind(block, plugged, cell + run, pages) == kind;
		     run++)
			;
		fprintf(stream,
			"<rect x=\"%" PRIu64 "\" y=\"%" PRIu64 "\" width=\"%" PRIu64
			"\" height=\"%d\" fill=\"%s\"><title>0x%" PRIx64 " to 0x%" PRIx64
			": %s</title></rect>\n",
			LEFT + cell % COLUMNS * CELL, top + cell / COLUMNS * CELL, run * CELL - 1,
			CELL - 1, kinds[kind].colour, cell * pages * SNAPSHOT_PAGE_SIZE,
			MIN((cell + run) * pages * SNAPSHOT_PAGE_SIZE, block->size) - 1,
			kinds[kind].name);
	}
}

static struct error *draw_block(FILE *stream, const struct snapshot_block *block, uint64_t top)
{
	char size[SIZE_TEXT_MAX], part[SIZE_TEXT_MAX];
	uint64_t counts[SNAPSHOT_PAGE_KINDS];
	struct snapshot_plugged plugged;

	TRY(snapshot_block_plugged(block, &plugged));
	count_pages(block, &plugged, 0, snapshot_block_pages(block), counts);
	fprintf(stream, "<text x=\"%d\" y=\"%" PRIu64 "\">", LEFT, top + TEXT_LINE - 6);
	print_text(stream, block->name);
	fprintf(stream, ", %s:", size_format_human(block->size, size));
	for (int kind = 0; kind < SNAPSHOT_PAGE_KINDS; kind++)
		if (counts[kind])
			fprintf(stream, " %s %s;",
				size_format_human(counts[kind] * SNAPSHOT_PAGE_SIZE, part),
				kinds[kind].name);
	fprintf(stream, " a square is %s</text>\n",
		size_format(cell_pages(snapshot_block_pages(block)) * SNAPSHOT_PAGE_SIZE, size));
	draw_cells(stream, block, &plugged, top + TEXT_LINE);
	free(plugged.bits);
	return NULL;
}

static void draw_header(FILE *stream, const struct snapshot_file *file, uint64_t height)
{
	const char *slash = strrchr(file->path, '/');
	uint64_t left = LEFT;

	fprintf(stream,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%" PRIu64
		"\" font-family=\"sans-serif\" font-size=\"12\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
		"<text x=\"%d\" y=\"24\" font-size=\"15\">",
		WIDTH, height, LEFT);
	print_text(stream, slash ? slash + 1 : file->path);
	fprintf(stream, "</text>\n");
	for (int kind = 0; kind < SNAPSHOT_PAGE_KINDS; kind++) {
		const char *name = kind == SNAPSHOT_PAGE_STORED && file->base_path
				       ? "changed since the base"
				       : kinds[kind].name;

		if (kind == SNAPSHOT_PAGE_INHERITED && !file->base_path)
			continue;
		fprintf(stream,
			"<rect x=\"%" PRIu64
			"\" y=\"38\" width=\"11\" height=\"11\" fill=\"%s\"/><text x=\"%" PRIu64
			"\" y=\"48\">%s</text>\n",
			left, kinds[kind].colour, left + 16, name);
		left += 40 + strlen(name) * 7;
	}
}

static struct error *draw(FILE *stream, const struct snapshot_file *file)
{
	uint64_t height = HEADER, top = HEADER;

	for (uint32_t i = 0; i < file->block_count; i++)
		height += TEXT_LINE + block_rows(&file->blocks[i]) * CELL + FOOT_SPACE;
	draw_header(stream, file, height);
	for (uint32_t i = 0; i < file->block_count; i++) {
		TRY(draw_block(stream, &file->blocks[i], top));
		top += TEXT_LINE + block_rows(&file->blocks[i]) * CELL + FOOT_SPACE;
	}
	fprintf(stream, "</svg>\n");
	return NULL;
}

struct error *snapshot_map_write(const struct snapshot_file *file, const char *path)
{
	FILE *stream = fopen(path, "wxe");
	struct error *error;

	if (!stream && errno == EEXIST)
		return error_new(EEXIST, "%s exists: remove it, or give another name", path);
	if (!stream)
		return error_system(errno, "cannot create %s", path);
	error = draw(stream, file);
	if (fclose(stream) != 0 && !error)
		error = error_system(errno, "cannot write %s", path);
	return error;
}
