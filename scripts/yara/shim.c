/* What the host calls, what it is called back with, and what libyara expects of
 * an operating system. One instance of this module does one thing at a time. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yara.h>
#include <yara/filemap.h>
#include <yara/proc.h>
#include <yara/threading.h>

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("host"), import_name(#name)))

/* What the host offers. Texts are pointer and length. */
IMPORT(diagnostic) void host_diagnostic(int warning, int line, const char *text, size_t len);
IMPORT(console) void host_console(const char *text, size_t len);
IMPORT(crowded) void host_crowded(const char *rule, size_t rule_len, const char *string, size_t string_len);
IMPORT(output) int host_output(const void *data, size_t len);
IMPORT(input) size_t host_input(void *data, size_t len);
IMPORT(block) int host_block(int first, uint64_t *base, uint32_t *size);
IMPORT(read) uint32_t host_read(void *data, uint32_t size);
IMPORT(rule) void host_rule(const char *name, size_t name_len, const char *ns, size_t ns_len);
IMPORT(tag) void host_tag(const char *text, size_t len);
IMPORT(meta_int) void host_meta_int(const char *name, size_t name_len, int boolean, int64_t value);
IMPORT(meta_string) void host_meta_string(const char *name, size_t name_len, const char *value, size_t value_len);
IMPORT(hit) int host_hit(const char *name, size_t name_len, uint64_t offset, uint32_t length);
IMPORT(rule_end) int host_rule_end(void);

IMPORT(check) void host_check(void);

/* What may be spent before the host is asked whether to go on; a branch is 1. */
int rp_budget;

/* The host does not return when the call is to end. */
void rp_check(void)
{
  rp_budget = 1 << 20;
  host_check();
}

void __sanitizer_cov_trace_pc(void)
{
  if (--rp_budget < 0)
    rp_check();
}

static YR_COMPILER *compiler;
static YR_RULES *rules;
static YR_SCANNER *scanner;

/* The block that was fetched last. */
static YR_MEMORY_BLOCK block;
static uint8_t *buffer;
static uint32_t capacity;
static int fetched;

static uint64_t total_size;

EXPORT(rp_alloc) void *rp_alloc(size_t size) { return malloc(size); }

EXPORT(rp_begin) int rp_begin(void)
{
  /* Hits are read again by the host, with what is around them. */
  uint32_t no_data = 0;
  int result = yr_initialize();
  if (result == ERROR_SUCCESS)
    result = yr_set_configuration(YR_CONFIG_MAX_MATCH_DATA, &no_data);
  return result;
}

/* Compiling. */

static void on_diagnostic(int level, const char *file, int line, const YR_RULE *rule, const char *text, void *data)
{
  host_diagnostic(level == YARA_ERROR_LEVEL_WARNING, line, text, strlen(text));
}

EXPORT(rp_compiler) int rp_compiler(void)
{
  int result = yr_compiler_create(&compiler);
  if (result != ERROR_SUCCESS)
    return result;
  yr_compiler_set_callback(compiler, on_diagnostic, NULL);
  yr_compiler_set_include_callback(compiler, NULL, NULL, NULL);
  return ERROR_SUCCESS;
}

/* Variables belong to the compiler, or to rules that came compiled. */
EXPORT(rp_define_int) int rp_define_int(const char *name, int64_t value)
{
  return compiler ? yr_compiler_define_integer_variable(compiler, name, value)
                  : yr_rules_define_integer_variable(rules, name, value);
}

EXPORT(rp_define_bool) int rp_define_bool(const char *name, int value)
{
  return compiler ? yr_compiler_define_boolean_variable(compiler, name, value)
                  : yr_rules_define_boolean_variable(rules, name, value);
}

EXPORT(rp_define_float) int rp_define_float(const char *name, double value)
{
  return compiler ? yr_compiler_define_float_variable(compiler, name, value)
                  : yr_rules_define_float_variable(rules, name, value);
}

EXPORT(rp_define_string) int rp_define_string(const char *name, const char *value)
{
  return compiler ? yr_compiler_define_string_variable(compiler, name, value)
                  : yr_rules_define_string_variable(rules, name, value);
}

/* Returns the number of errors; each was told to the host. */
EXPORT(rp_add) int rp_add(const void *text, size_t len, const char *ns)
{
  return yr_compiler_add_bytes(compiler, text, len, ns);
}

static size_t write_out(const void *data, size_t size, size_t count, void *user)
{
  return host_output(data, size * count) ? count : 0;
}

/* Writes the compiled rules to the host. Nothing may be added before or after. */
EXPORT(rp_save) int rp_save(void)
{
  YR_STREAM stream = {.user_data = NULL, .write = write_out};
  int result = yr_compiler_get_rules(compiler, &rules);
  if (result != ERROR_SUCCESS)
    return result;
  return yr_rules_save_stream(rules, &stream);
}

/* Scanning. */

static size_t read_in(void *data, size_t size, size_t count, void *user)
{
  return host_input(data, size * count) == size * count ? count : 0;
}

EXPORT(rp_load) int rp_load(void)
{
  YR_STREAM stream = {.user_data = NULL, .read = read_in};
  return yr_rules_load_stream(&stream, &rules);
}

/* Makes the scanner, when all variables are defined. */
EXPORT(rp_scanner) int rp_scanner(void) { return yr_scanner_create(rules, &scanner); }

static const uint8_t *fetch(YR_MEMORY_BLOCK *b)
{
  if (fetched)
    return buffer;
  if (capacity < b->size)
  {
    free(buffer);
    capacity = 0;
    buffer = malloc(b->size);
    if (buffer == NULL)
    {
      host_read(NULL, b->size); /* which the host takes for an error */
      return NULL;
    }
    capacity = b->size;
  }
  uint32_t n = host_read(buffer, b->size);
  if (n == 0)
    return NULL;
  memset(buffer + n, 0, b->size - n); /* conditions have looked at the size already */
  b->size = n;
  fetched = 1;
  return buffer;
}

static YR_MEMORY_BLOCK *advance(YR_MEMORY_BLOCK_ITERATOR *iterator, int first)
{
  uint64_t base = 0;
  uint32_t size = 0;
  if (!host_block(first, &base, &size))
    return NULL;
  if (!fetched || block.base != base || block.size != size)
    fetched = 0;
  block.base = base;
  block.size = size;
  block.fetch_data = fetch;
  /* Parts of strings with long gaps are kept by their offset within the block,
   * so that those of another block must not be continued. */
  memset(scanner->unconfirmed_matches, 0, sizeof(YR_MATCHES) * scanner->rules->num_strings);
  return &block;
}

static YR_MEMORY_BLOCK *first_block(YR_MEMORY_BLOCK_ITERATOR *iterator) { return advance(iterator, 1); }
static YR_MEMORY_BLOCK *next_block(YR_MEMORY_BLOCK_ITERATOR *iterator) { return advance(iterator, 0); }
static uint64_t size_of_all(YR_MEMORY_BLOCK_ITERATOR *iterator) { return total_size; }

static void tell_meta(YR_META *meta)
{
  if (meta->type == META_TYPE_STRING)
    host_meta_string(meta->identifier, strlen(meta->identifier), meta->string, strlen(meta->string));
  else
    host_meta_int(meta->identifier, strlen(meta->identifier), meta->type == META_TYPE_BOOLEAN, meta->integer);
}

static void tell_hits(YR_SCAN_CONTEXT *context, YR_STRING *string)
{
  YR_MATCH *match;
  yr_string_matches_foreach(context, string, match)
  {
    if (!host_hit(string->identifier, strlen(string->identifier), match->base + match->offset, match->match_length))
      return;
  }
}

static int tell_rule(YR_SCAN_CONTEXT *context, YR_RULE *rule)
{
  const char *tag;
  YR_META *meta;
  YR_STRING *string;

  host_rule(rule->identifier, strlen(rule->identifier), rule->ns->name, strlen(rule->ns->name));
  yr_rule_tags_foreach(rule, tag) host_tag(tag, strlen(tag));
  yr_rule_metas_foreach(rule, meta) tell_meta(meta);
  yr_rule_strings_foreach(rule, string) tell_hits(context, string);
  return host_rule_end() ? CALLBACK_CONTINUE : CALLBACK_ABORT;
}

static int on_scan(YR_SCAN_CONTEXT *context, int message, void *data, void *user)
{
  switch (message)
  {
  case CALLBACK_MSG_RULE_MATCHING:
    return tell_rule(context, data);
  case CALLBACK_MSG_CONSOLE_LOG:
    host_console(data, strlen(data));
    return CALLBACK_CONTINUE;
  case CALLBACK_MSG_TOO_MANY_MATCHES:
  {
    YR_STRING *string = data;
    YR_RULE *rule = &context->rules->rules_table[string->rule_idx];
    host_crowded(rule->identifier, strlen(rule->identifier), string->identifier, strlen(string->identifier));
    return CALLBACK_CONTINUE;
  }
  }
  return CALLBACK_CONTINUE;
}

/* Scans the blocks that the host gives. size is that of the whole file; the memory
 * of a process has none. */
EXPORT(rp_scan) int rp_scan(int process, uint64_t size)
{
  YR_MEMORY_BLOCK_ITERATOR iterator = {
      .first = first_block, .next = next_block, .file_size = size_of_all, .last_error = ERROR_SUCCESS};
  fetched = 0;
  total_size = process ? YR_UNDEFINED : size;
  scanner->entry_point = YR_UNDEFINED;
  yr_scanner_set_callback(scanner, on_scan, NULL);
  yr_scanner_set_flags(scanner, SCAN_FLAGS_REPORT_RULES_MATCHING | (process ? SCAN_FLAGS_PROCESS_MEMORY : 0));
  return yr_scanner_scan_mem_blocks(scanner, &iterator);
}

/* What libyara expects of an operating system: threads that do not exist, and
 * files and processes that cannot be opened from in here. */

YR_THREAD_ID yr_current_thread_id(void) { return NULL; }
int yr_mutex_create(YR_MUTEX *mutex) { return ERROR_SUCCESS; }
int yr_mutex_destroy(YR_MUTEX *mutex) { return ERROR_SUCCESS; }
int yr_mutex_lock(YR_MUTEX *mutex) { return ERROR_SUCCESS; }
int yr_mutex_unlock(YR_MUTEX *mutex) { return ERROR_SUCCESS; }

/* libyara keeps two thread variables for as long as the instance lives. */
static void *slots[4];
static unsigned used;

int yr_thread_storage_create(YR_THREAD_STORAGE_KEY *storage)
{
  if (used == sizeof(slots) / sizeof(slots[0]))
    return ERROR_INSUFFICIENT_MEMORY;
  *storage = used++;
  return ERROR_SUCCESS;
}

int yr_thread_storage_destroy(YR_THREAD_STORAGE_KEY *storage) { return ERROR_SUCCESS; }

int yr_thread_storage_set_value(YR_THREAD_STORAGE_KEY *storage, void *value)
{
  slots[*storage] = value;
  return ERROR_SUCCESS;
}

void *yr_thread_storage_get_value(YR_THREAD_STORAGE_KEY *storage) { return slots[*storage]; }

int yr_filemap_map(const char *path, YR_MAPPED_FILE *file) { return ERROR_COULD_NOT_OPEN_FILE; }
int yr_filemap_map_fd(YR_FILE_DESCRIPTOR fd, uint64_t offset, size_t size, YR_MAPPED_FILE *file)
{
  return ERROR_COULD_NOT_OPEN_FILE;
}
void yr_filemap_unmap(YR_MAPPED_FILE *file) {}
void yr_filemap_unmap_fd(YR_MAPPED_FILE *file) {}

int yr_process_open_iterator(int pid, YR_MEMORY_BLOCK_ITERATOR *iterator)
{
  return ERROR_COULD_NOT_ATTACH_TO_PROCESS;
}
int yr_process_close_iterator(YR_MEMORY_BLOCK_ITERATOR *iterator) { return ERROR_SUCCESS; }
