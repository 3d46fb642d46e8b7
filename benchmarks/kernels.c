/* The 37 sums of docs/theory.md eq. 8, and the sums of a value alone, as plainly as C can say it. What is what: kernels.py. */

#include <math.h>
#include <stddef.h>

enum { WIDTH = 4, DEGREE = 8, N_SUMS = 37, BLOCK = 64 };

typedef struct {
    int side, n_regions, n, p;
    float scale;
    const float *grid, *regions, *frequency, *value, *transfer, *weight;
    const float *values, *slopes; /* of the window: (power, WIDTH), lowest power first */
} Pair;

static void polynomials(const float *c, int degree, float s, float *w)
{
    for (int tap = 0; tap < WIDTH; tap++) w[tap] = c[degree * WIDTH + tap];
    for (int power = degree - 1; power >= 0; power--)
        for (int tap = 0; tap < WIDTH; tap++) w[tap] = w[tap] * s + c[power * WIDTH + tap];
}

static float region_weight(const Pair *a, const float *q)
{
    const float tolerance = 1e-6f * (q[0] * q[0] + q[1] * q[1] + q[2] * q[2]);
    for (int i = 0; i < a->n_regions; i++) {
        const float *r = a->regions + 7 * i;
        const float u = r[0] * q[0] + r[1] * q[1] + r[2] * q[2] - r[6];
        const float v = r[3] * q[0] + r[4] * q[1] + r[5] * q[2] + r[6];
        if (u * v <= tolerance) return 1.0f;
    }
    return 0.0f;
}

/* First of the four neighbours along each axis, and the place in [-1, 1) between the middle two. */
static size_t corner(const Pair *a, const float *q, float *s)
{
    size_t place = 0;
    for (int axis = 2; axis >= 0; axis--) {
        const float x = a->scale * q[axis], below = floorf(x);
        s[axis] = 2.0f * (x - below) - 1.0f;
        place = place * a->side + (size_t)((int)below + a->side / 2 - 1);
    }
    return 2 * place;
}

/* re, im of G, dG/dqx, dG/dqy, dG/dqz */
static void interpolate(const Pair *a, const float *q, float *g)
{
    float s[3], w[3][WIDTH], d[3][WIDTH], value[8] = {0}, by_y[8] = {0}, by_z[8] = {0};
    const float *plane = a->grid + corner(a, q, s);
    for (int axis = 0; axis < 3; axis++) {
        polynomials(a->values, DEGREE, s[axis], w[axis]);
        polynomials(a->slopes, DEGREE - 1, s[axis], d[axis]);
    }
    for (int i = 0; i < WIDTH; i++, plane += 2 * a->side * a->side) {
        float level[8] = {0}, slope[8] = {0};
        for (int j = 0; j < WIDTH; j++)
            for (int x = 0; x < 8; x++) {
                level[x] += w[1][j] * plane[2 * a->side * j + x];
                slope[x] += d[1][j] * plane[2 * a->side * j + x];
            }
        for (int x = 0; x < 8; x++) {
            value[x] += w[2][i] * level[x];
            by_y[x] += w[2][i] * slope[x];
            by_z[x] += d[2][i] * level[x];
        }
    }
    for (int part = 0; part < 8; part++) g[part] = 0.0f;
    for (int m = 0; m < WIDTH; m++)
        for (int part = 0; part < 2; part++) {
            g[part] += w[0][m] * value[2 * m + part];
            g[2 + part] += d[0][m] * value[2 * m + part];
            g[4 + part] += w[0][m] * by_y[2 * m + part];
            g[6 + part] += w[0][m] * by_z[2 * m + part];
        }
}

static void interpolate_value(const Pair *a, const float *q, float *g)
{
    float s[3], w[3][WIDTH], value[8] = {0};
    const float *plane = a->grid + corner(a, q, s);
    for (int axis = 0; axis < 3; axis++) polynomials(a->values, DEGREE, s[axis], w[axis]);
    for (int i = 0; i < WIDTH; i++, plane += 2 * a->side * a->side) {
        float level[8] = {0};
        for (int j = 0; j < WIDTH; j++)
            for (int x = 0; x < 8; x++) level[x] += w[1][j] * plane[2 * a->side * j + x];
        for (int x = 0; x < 8; x++) value[x] += w[2][i] * level[x];
    }
    g[0] = g[1] = 0.0f;
    for (int m = 0; m < WIDTH; m++)
        for (int part = 0; part < 2; part++) g[part] += w[0][m] * value[2 * m + part];
}

static void turned_back(const float *r, const float *k, float *q)
{
    for (int i = 0; i < 3; i++) q[i] = r[i] * k[0] + r[3 + i] * k[1] + r[6 + i] * k[2];
}

/* (R grad G) x k of one part, real or imaginary */
static void rotation_derivative(const float *r, const float *g, const float *k, float *out)
{
    float turned[3];
    for (int i = 0; i < 3; i++) turned[i] = r[3 * i] * g[2] + r[3 * i + 1] * g[4] + r[3 * i + 2] * g[6];
    for (int i = 0; i < 3; i++)
        out[i] = turned[(i + 1) % 3] * k[(i + 2) % 3] - turned[(i + 2) % 3] * k[(i + 1) % 3];
}

static void add_sample(const Pair *a, int j, const float *r, const float *phase, float *sums)
{
    const float k[3] = {a->frequency[j], a->frequency[a->n + j], a->frequency[2 * a->n + j]};
    float q[3], g[8], by_re[3], by_im[3], re[6], im[6];
    turned_back(r, k, q);
    const float w = a->weight[j] * region_weight(a, q);
    if (w <= 0.0f) return;
    interpolate(a, q, g);
    const float angle = phase[0] * k[0] + phase[1] * k[1] + phase[2] * k[2];
    const float cosine = a->transfer[j] * cosf(angle), sine = -a->transfer[j] * sinf(angle);
    const float gr = cosine * g[0] - sine * g[1], gi = cosine * g[1] + sine * g[0];
    rotation_derivative(r, g, k, by_re);
    rotation_derivative(r, g + 1, k, by_im);
    for (int i = 0; i < 3; i++) {
        re[i] = a->scale * (cosine * by_re[i] - sine * by_im[i]);
        im[i] = a->scale * (cosine * by_im[i] + sine * by_re[i]);
        re[3 + i] = k[i] * gi;
        im[3 + i] = -k[i] * gr;
    }
    const float fr = a->value[2 * j], fi = a->value[2 * j + 1];
    int place = 0;
    for (int row = 0; row < 6; row++) {
        for (int column = row; column < 6; column++) sums[place++] += w * (re[row] * re[column] + im[row] * im[column]);
        sums[21 + row] += w * (re[row] * fr + im[row] * fi);
        sums[27 + row] += w * (re[row] * gr + im[row] * gi);
    }
    sums[33] += w * (fr * fr + fi * fi);
    sums[34] += w * (gr * gr + gi * gi);
    sums[35] += w * (fr * gr + fi * gi);
    sums[36] += w;
}

#define ARGUMENTS                                                                                                     \
    int side, int n_regions, int n, int p, float scale, const float *grid, const float *regions,                     \
        const float *frequency, const float *value_, const float *transfer, const float *weight, const int *shell,   \
        const float *values, const float *slopes, const float *rotations, const float *phases
#define PAIR                                                                                                          \
    {side, n_regions, n, p, scale, grid, regions, frequency, value_, transfer, weight, values, slopes}

void normal_equations(ARGUMENTS, double *out)
{
    const Pair a = PAIR;
    (void)shell;
    for (int i = 0; i < p; i++)
        for (int first = 0; first < n; first += BLOCK) {
            float block[N_SUMS] = {0};
            for (int j = first; j < n && j < first + BLOCK; j++) add_sample(&a, j, rotations + 9 * i, phases + 3 * i, block);
            for (int s = 0; s < N_SUMS; s++) out[N_SUMS * i + s] += block[s];
        }
}

void value(ARGUMENTS, const int *n_shells, float *products, double *out)
{
    const Pair a = PAIR;
    for (int i = 0; i < p; i++)
        for (int j = 0; j < n; j++) {
            const float k[3] = {frequency[j], frequency[n + j], frequency[2 * n + j]}, *phase = phases + 3 * i;
            float q[3], g[2];
            float *product = products + 2 * ((size_t)i * n + j);
            turned_back(rotations + 9 * i, k, q);
            const float w = weight[j] * region_weight(&a, q);
            product[0] = product[1] = 0.0f;
            if (w <= 0.0f) continue;
            interpolate_value(&a, q, g);
            const float angle = phase[0] * k[0] + phase[1] * k[1] + phase[2] * k[2];
            const float cosine = transfer[j] * cosf(angle), sine = -transfer[j] * sinf(angle);
            const float gr = cosine * g[0] - sine * g[1], gi = cosine * g[1] + sine * g[0];
            const float fr = value_[2 * j], fi = value_[2 * j + 1];
            product[0] = w * (fr * gr + fi * gi);
            product[1] = w * (fi * gr - fr * gi);
            double *sums = out + 4 * ((size_t)i * *n_shells + shell[j]);
            sums[0] += w * (fr * fr + fi * fi);
            sums[1] += w * (gr * gr + gi * gi);
            sums[2] += w * (fr * gr + fi * gi);
            sums[3] += w;
        }
}
