/* The matrix unit of x86 (AMX-TILE, AMX-INT8) in C: eight registers of up to 16 rows of 64 bytes in each thread.

   From the instructions' definitions in Intel's Software Developer's Manual, volume 2.  What a processor refuses with
   an exception is recorded as a fault, and the instruction does nothing. */
#include <stdint.h>
#include <string.h>

enum { TILES = 8, ROWS = 16, ROW = 64 };

typedef struct {
  int rows, bytes; /* as configured; 0 if not */
  uint8_t data[ROWS][ROW];
} Tile;

static _Thread_local Tile tiles[TILES];
static _Thread_local int configured;
static const char *volatile first_fault;

static int fault(const char *what) {
  if (!first_fault) first_fault = what;
  return 1;
}

/* The first fault since the last call, or null. */
const char *tflite2q_tile_faults(void) {
  const char *found = first_fault;
  first_fault = 0;
  return found;
}

int tflite2q_ldtilecfg(const uint8_t *shapes) {
  if (shapes[0] != 1) return fault("ldtilecfg: the palette is not 1");
  for (int i = 1; i < 16; i++)
    if (shapes[i]) return fault("ldtilecfg: bytes 1 to 15 are not zero");
  for (int t = 0; t < 16; t++) {
    int bytes = shapes[16 + 2 * t] | shapes[17 + 2 * t] << 8, rows = shapes[48 + t];
    if (t >= TILES && (bytes || rows)) return fault("ldtilecfg: more than eight tiles");
    if (bytes > ROW || rows > ROWS) return fault("ldtilecfg: a tile is too large");
    if (!bytes != !rows) return fault("ldtilecfg: a tile has rows or bytes only");
  }
  for (int t = 0; t < TILES; t++) {
    memset(&tiles[t], 0, sizeof tiles[t]);
    tiles[t].bytes = shapes[16 + 2 * t];
    tiles[t].rows = shapes[48 + t];
  }
  configured = 1;
  return 0;
}

int tflite2q_tilerelease(void) {
  memset(tiles, 0, sizeof tiles);
  configured = 0;
  return 0;
}

static int unusable(int t) { return !configured || t < 0 || t >= TILES || !tiles[t].rows; }

int tflite2q_tilezero(int8_t t) {
  if (unusable(t)) return fault("tilezero: the tile is not configured");
  memset(tiles[t].data, 0, sizeof tiles[t].data);
  return 0;
}

int tflite2q_tileloadd64(int8_t t, const uint8_t *from, int64_t stride) {
  if (unusable(t)) return fault("tileloadd: the tile is not configured");
  Tile *tile = &tiles[t];
  memset(tile->data, 0, sizeof tile->data);
  for (int r = 0; r < tile->rows; r++) memcpy(tile->data[r], from + r * stride, tile->bytes);
  return 0;
}

int tflite2q_tilestored64(int8_t t, uint8_t *to, int64_t stride) {
  if (unusable(t)) return fault("tilestored: the tile is not configured");
  for (int r = 0; r < tiles[t].rows; r++) memcpy(to + r * stride, tiles[t].data[r], tiles[t].bytes);
  return 0;
}

/* c[m][n] += the sum over k and the four bytes i of a[m][4 k + i] * b[k][4 n + i], modulo 2**32. */
static int products(int8_t ct, int8_t at, int8_t bt, int is_signed) {
  if (unusable(ct) || unusable(at) || unusable(bt)) return fault("tdp: a tile is not configured");
  if (ct == at || ct == bt || at == bt) return fault("tdp: a tile is used twice");
  Tile *c = &tiles[ct], *a = &tiles[at], *b = &tiles[bt];
  if (c->bytes % 4 || a->bytes % 4 || b->bytes % 4) return fault("tdp: rows are not whole words");
  if (c->rows != a->rows || c->bytes != b->bytes || a->bytes / 4 != b->rows) return fault("tdp: shapes do not fit");
  for (int m = 0; m < c->rows; m++)
    for (int k = 0; k < b->rows; k++)
      for (int n = 0; n < c->bytes / 4; n++) {
        int32_t sum = 0;
        for (int i = 0; i < 4; i++) {
          int x = a->data[m][4 * k + i];
          sum += (is_signed ? (int8_t)x : x) * (int8_t)b->data[k][4 * n + i];
        }
        uint32_t old;
        memcpy(&old, &c->data[m][4 * n], 4);
        old += (uint32_t)sum;
        memcpy(&c->data[m][4 * n], &old, 4);
      }
  return 0;
}

int tflite2q_tdpbssd(int8_t c, int8_t a, int8_t b) { return products(c, a, b, 1); }

int tflite2q_tdpbusd(int8_t c, int8_t a, int8_t b) { return products(c, a, b, 0); }
