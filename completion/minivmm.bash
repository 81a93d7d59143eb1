# Completion in bash for minivmm and minivmm-img. What there is to complete comes from their own --help,
# so that it is what the installed programs know.
# shellcheck shell=bash

# Each function here sees its caller's `word`, the word at the cursor as it was typed, `previous`, the one
# before it, and `program`. bash itself splits words at "=" and ":", which these programs' words hold.

# STEM WORD...: offers STEM and each word that goes on with what was typed.
_minivmm_offer() {
    local stem=$1 typed='' candidate
    shift
    # readline puts in only what stands behind the last of its breaks.
    if [[ $word == *[=:]* && $COMP_WORDBREAKS == *=* && $COMP_WORDBREAKS == *:* ]]; then
        typed=${word%"${word##*[=:]}"}
    fi
    for candidate; do
        candidate=$stem$candidate
        [[ $candidate != "$word"* ]] || COMPREPLY+=("${candidate#"$typed"}")
    done
    # More is to come behind these.
    [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *[=:] ]] || compopt -o nospace 2>/dev/null
}

# STEM: files whose names go on with what was typed behind it.
_minivmm_files() {
    local -a names
    mapfile -t names < <(compgen -f -- "${word#"$1"}")
    [[ $1 != '' ]] || compopt -o filenames 2>/dev/null
    _minivmm_offer "$1" "${names[@]}"
}

# STEM KEYS...: one of KEY=A|B, KEY=, or KEY of a list with commas whose other items are in STEM already.
_minivmm_keys() {
    local stem=$1 item=${word#"$1"} key
    local -a values
    shift
    if [[ $item != *=* ]]; then
        # Of "KEY=A|B" what comes first.
        _minivmm_offer "$stem" "${@/%=*/=}"
        return
    fi
    for key; do
        if [[ $key == "${item%%=*}="* ]]; then
            IFS='|' read -ra values <<<"${key#*=}"
            case $key in
            *file=PATH | *data_file= | *backing_file=) _minivmm_files "$stem${item%%=*}=" ;;
            *) _minivmm_offer "$stem${item%%=*}=" "${values[@]}" ;;
            esac
        fi
    done
}

# Sets word, previous and words (all before the cursor's) from the line.
_minivmm_split() {
    # Blanks that are part of a word stand as a character that no line has.
    local line=${COMP_LINE:0:COMP_POINT} blank=$'\1'
    line=${line//\\ /"$blank"}
    word=${line##*[[:space:]]}
    read -ra words <<<"${line:0:${#line}-${#word}}"
    word=${word//"$blank"/ }
    previous=${words[-1]:-}
}

# ---- minivmm-img ----

# The options of -o: "KEY=" or, where values are few, "KEY=A|B".
_minivmm_img_create_options() {
    local command=$1
    case $command in
    amend) ;;
    *) command=create ;;
    esac
    "$program" "$command" -f qcow2 -o help 2>/dev/null | sed -nE \
        -e 's/^  preallocation=.*/preallocation=off|metadata|falloc|full/p; t' \
        -e 's/^  compat=.*/compat=1.1|0.10/p; t' -e 's/^  compression_type=.*/compression_type=zlib|zstd/p; t' \
        -e 's/^  backing_fmt=.*/backing_fmt=qcow2|raw/p; t' -e 's/^  encrypt.format=.*/encrypt.format=luks/p; t' \
        -e 's/^  encrypt.state=.*/encrypt.state=active|inactive/p; t' \
        -e 's/^  refcount_bits=.*/refcount_bits=1|2|4|8|16|32|64/p; t' \
        -e 's/^  ([a-z0-9._-]+)=<bool.*/\1=on|off/p; t' -e 's/^  ([a-z0-9._-]+)=<.*/\1=/p'
}

# The command among the words, which options of the program itself may stand in front of.
_minivmm_img_command() {
    local i
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]} in
        --backing-root | --trace | -T) i=$((i + 1)) ;;
        -*) ;;
        *)
            echo "${words[i]}"
            return
            ;;
        esac
    done
}

# COMMAND: the options in its syntax, those with a value behind "=" with that.
_minivmm_img_options() {
    "$program" --help 2>/dev/null | sed -n "s/^  $1 / /p" | grep -oE -e '[[( ]--?[a-zA-Z][a-z-]*=?' | sed 's/^.//'
    printf '%s\n' -h --help --image-opts --object --key-file --key-fd
}

_minivmm_img() {
    local program=$1 word previous command
    local -a words candidates
    COMPREPLY=()
    _minivmm_split
    command=$(_minivmm_img_command)
    if [[ $command == '' && $previous != @(--backing-root|--trace|-T) ]]; then
        mapfile -t candidates < <("$program" --help 2>/dev/null |
            sed -nE '/^Command syntax/,/^$/s/^  ([a-z]+) .*/\1/p')
        _minivmm_offer '' "${candidates[@]}" --help --version --trace --backing-root
        return
    fi
    case $command$previous in
    create-b | bitmap-b | rebase-b | commit-b | convert-B | *--key-file | *--backing-root) _minivmm_files '' ;;
    *-f | *-F | *-O) _minivmm_offer '' qcow2 raw ;;
    -T | --trace) ;;
    *-t | *-T) _minivmm_offer '' none writeback writethrough directsync unsafe ;;
    *--output) _minivmm_offer '' human json ;;
    *--preallocation) _minivmm_offer '' off metadata falloc full ;;
    check-r) _minivmm_offer '' leaks all ;;
    create-o | convert-o | measure-o | amend-o)
        mapfile -t candidates < <(_minivmm_img_create_options "$command")
        _minivmm_keys "${word%"${word##*,}"}" "${candidates[@]}" help
        ;;
    *)
        case $word in
        --output=*) _minivmm_offer --output= human json ;;
        --preallocation=*) _minivmm_offer --preallocation= off metadata falloc full ;;
        --key-file=*) _minivmm_files --key-file= ;;
        -*)
            mapfile -t candidates < <(_minivmm_img_options "$command")
            _minivmm_offer '' "${candidates[@]}"
            ;;
        if=* | of=*) _minivmm_files "${word%%=*}=" ;;
        *)
            [[ $command != dd ]] || _minivmm_offer '' if= of= bs= count= skip=
            [[ $command == dd ]] || _minivmm_files ''
            ;;
        esac
        ;;
    esac
}

# ---- minivmm ----

_minivmm() {
    local program=$1 word previous help value
    local -a words candidates
    COMPREPLY=()
    _minivmm_split
    help=$("$program" --help 2>/dev/null)
    # What stands behind an option in the help: FILE, on|off ...
    [[ $previous != --* ]] || value=$(sed -nE "s/^  $previous ([^ ]+).*/\1/p" <<<"$help")
    case $previous/${value:-} in
    --disk/*)
        if [[ $word != *,* ]]; then
            _minivmm_files ''
        else
            mapfile -t candidates < <(sed -n '/^  --disk/,/^  --backing-root/p' <<<"$help" |
                sed -E 's/\|([a-z-]+=)/ \1/g' | grep -oE '[a-z-]+=[A-Za-z0-9_|]+' | sed -E '/=PATH$/!s/=[A-Z].*/=/')
            _minivmm_keys "${word%"${word##*,}"}" "${candidates[@]}"
        fi
        ;;
    --console/*)
        if [[ $word == file:* ]]; then _minivmm_files file:; else _minivmm_offer '' stdio null file: pty; fi
        ;;
    --log-level/*) _minivmm_offer '' error warn info debug ;;
    */FILE | */DIR) _minivmm_files '' ;;
    */*'|'*)
        IFS='|' read -ra candidates <<<"$value"
        _minivmm_offer '' "${candidates[@]}"
        ;;
    */?*) ;;
    *)
        mapfile -t candidates < <(grep -oE '^  --[a-z-]+' <<<"$help" | tr -d ' ')
        _minivmm_offer '' "${candidates[@]}"
        ;;
    esac
}

complete -F _minivmm_img minivmm-img
complete -F _minivmm minivmm
