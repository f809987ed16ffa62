# awk -f readme.awk SOURCE... README.md: whether each piece of the README's blocks of C, from one empty
# line to the next, is in one of the sources, but for comments and white space.
FNR == 1 {
    inside = FILENAME != ARGV[ARGC - 1]
    is_source = inside
    in_comment = 0
}

!is_source && /^```/ {
    look_up()
    inside = !inside && $0 == "```c"
    next
}

!inside { next }

{
    line = $0
    kept = ""
    while (line != "") {
        at = index(line, in_comment ? "*/" : "/*")
        if (!in_comment) kept = kept (at ? substr(line, 1, at - 1) : line)
        if (!at) break
        line = substr(line, at + 2)
        in_comment = !in_comment
    }
    gsub(/[ \t]/, "", kept)
}

is_source {
    code[FILENAME] = code[FILENAME] kept
    next
}

/^[ \t]*$/ { look_up() }

{
    if (piece == "") first = FNR
    piece = piece kept
}

function look_up(    name, found) {
    if (piece == "") return
    pieces++
    for (name in code)
        if (index(code[name], piece)) found = 1
    if (!found) {
        print FILENAME ":" first ": this is in no program that is tested"
        missing++
    }
    piece = ""
}

END {
    print pieces + 0 " pieces of C, " missing + 0 " of them in no program"
    exit missing > 0 || pieces == 0
}
