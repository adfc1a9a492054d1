/* A plugin of qemu's user mode: what 64-bit Arm instructions a program executes, between marks that it sets itself.

   A mark is the system call sched_get_priority_max(SCHED_BATCH), which changes nothing and which nobody else makes.
   Each mark writes one line: how many instructions the thread that set it has executed so far, how many all other
   threads have, and how many of all were products of each kind.

   The few declarations below are those of qemu's plugin interface, version 1; Debian packages no header. */

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define SCHED_GET_PRIORITY_MAX 125 /* of 64-bit Arm */
#define SCHED_BATCH 3
#define THREADS 4096

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*executed_t)(unsigned int, void *);
typedef void (*called_t)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                         uint64_t, uint64_t, uint64_t);

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed_t, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, called_t);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

enum { ALL, MATRIX, DOT, WIDENING, KINDS };

/* Vectors of integer products, by the bits of an instruction that say what it is. */
static const struct {
    uint32_t mask, bits;
    int kind;
} products[] = {
    {0xDFE0FC00, 0x4E80A400, MATRIX}, /* smmla, ummla */
    {0xFFE0FC00, 0x4E80AC00, MATRIX}, /* usmmla */
    {0x9FE0FC00, 0x0E809400, DOT},    /* sdot, udot */
    {0x9FC0F400, 0x0F80E000, DOT},    /* the same, by element */
    {0xBFE0FC00, 0x0E809C00, DOT},    /* usdot */
    {0xBF40F400, 0x0F00F000, DOT},    /* usdot, sudot, by element */
    {0x9F20DC00, 0x0E208000, WIDENING}, /* smlal, umlal, smlsl, umlsl */
    {0x9F20FC00, 0x0E20C000, WIDENING}, /* smull, umull */
    {0x9F00B400, 0x0F002000, WIDENING}, /* smlal and others by element */
    {0x9F00F400, 0x0F00A000, WIDENING}, /* smull, umull by element */
};

typedef struct {
    uint64_t of[KINDS];
} counts_t;

static counts_t executed[THREADS]; /* of each thread, which alone adds to its own */

static void add(unsigned int thread, void *block)
{
    counts_t *sum = &executed[thread % THREADS];
    for (int kind = 0; kind < KINDS; kind++)
        sum->of[kind] += ((const counts_t *)block)->of[kind];
}

static int kind_of(uint32_t instruction)
{
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        if ((instruction & products[i].mask) == products[i].bits)
            return products[i].kind;
    return ALL;
}

/* A block of instructions without a branch is counted when it is entered. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    counts_t *found = calloc(1, sizeof *found); /* lives as long as the block may run */
    if (found == NULL)
        abort();
    found->of[ALL] = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < found->of[ALL]; i++) {
        const uint8_t *code = qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i));
        int kind = kind_of(code[0] | code[1] << 8 | code[2] << 16 | (uint32_t)code[3] << 24);
        if (kind != ALL)
            found->of[kind]++;
    }
    qemu_plugin_register_vcpu_tb_exec_cb(block, add, 0, found);
}

static void called(qemu_plugin_id_t id, unsigned int thread, int64_t number, uint64_t policy, uint64_t b, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != SCHED_GET_PRIORITY_MAX || policy != SCHED_BATCH)
        return;
    counts_t sum = {{0}};
    for (int i = 0; i < THREADS; i++)
        for (int kind = 0; kind < KINDS; kind++)
            sum.of[kind] += executed[i].of[kind];
    uint64_t own = executed[thread % THREADS].of[ALL];
    fprintf(stderr, "counted %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", own, sum.of[ALL] - own,
            sum.of[MATRIX], sum.of[DOT], sum.of[WIDENING]);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
