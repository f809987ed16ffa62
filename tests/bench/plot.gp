# Draws the CSV that `bench --csv FILE` writes, each contestant as a multiple of the floor:
#   gnuplot -c plot.gp FILE bench.png

csv = ARG1
image = ARG2

# Lines of the library and its peers; a shape's place is where it first appears in the file.
rows = "awk -F, 'NR == 1 { next } !($1 in at) { at[$1] = n++ } " . \
    "$6 != \"floor\" && $6 != \"twice\" %s' '" . csv . "'"
distinct(column) = system(sprintf(rows, sprintf("{ if (!seen[$%d]++) print $%d }", column, column)))
points(threads, direction, name) = "< " . sprintf(rows, sprintf( \
    "&& $3 == %s && $2 == \"%s\" && $4 == \"%s\" { print at[$1], $7 }", threads, direction, name))

dtype = system(sprintf("awk -F, 'NR == 2 && $11 != \"\" && $11 != \"f32\" { print \", \" $11 }' '%s'", csv))

threads = distinct(3)
directions = distinct(2)
contestants = distinct(4)
shapes = distinct(1)

# This library comes first, and is drawn last, on top.
array color[6] = ["#0060ad", "#dd6e00", "#888888", "#4a8a2a", "#a03070", "#000000"]
style(k) = color[k > 6 ? 6 : k]

set terminal pngcairo font "Sans,10" background "white" \
    size 130 + (200 + 30 * words(shapes)) * words(threads), 160 + 300 * words(directions)
set output image

set logscale y 2
set xrange [-0.7:words(shapes) - 0.3]
set grid ytics xtics linecolor rgb "#e4e4e4" linetype 1
set border 3
set tics nomirror
set multiplot layout words(directions), words(threads) \
    title "Batch normalization: time as a multiple of the floor" . dtype font ",14" \
    margins screen 0.06, 0.985, 0.11, 0.93 spacing screen 0.045, 0.05
do for [d = 1:words(directions)] {
    do for [t = 1:words(threads)] {
        set title sprintf("%s, %s thread%s", word(directions, d), word(threads, t), \
            word(threads, t) eq "1" ? "" : "s")
        set yrange [0.8:*]
        set xtics rotate by 50 right ()
        do for [k = 1:words(shapes)] {
            set xtics add (d == words(directions) ? word(shapes, k) : "" k - 1)
        }
        if (d == 1 && t == 1) {
            set key at screen 0.985, 0.99 right top horizontal
        } else {
            unset key
        }
        plot 1 with lines linecolor rgb "#888888" dashtype 2 notitle, \
            for [k = words(contestants):1:-1] \
                points(word(threads, t), word(directions, d), word(contestants, k)) \
                using 1:2 with points pointtype (k == 1 ? 7 : 3 + 2 * k) \
                pointsize (k == 1 ? 1.2 : 0.9) linecolor rgb style(k) title word(contestants, k)
    }
}
unset multiplot
