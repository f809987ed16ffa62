# Sets `has_git`, whether the source is a clone that git is there for and willing to look at, and
# SOURCE_DATE_EPOCH, where it is not set, so that packages of the same source have the same bits: to the
# time of the last commit or, of what is no clone, to the time of a file: in a tarball all have the same.
get_filename_component(source ${CMAKE_CURRENT_LIST_DIR}/../.. ABSOLUTE)
set(has_git FALSE)
if(EXISTS ${source}/.git)
    execute_process(COMMAND git log -1 --format=%ct WORKING_DIRECTORY ${source}
        OUTPUT_VARIABLE release_date OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE result ERROR_QUIET)
    if(result EQUAL 0)
        set(has_git TRUE)
    endif()
endif()
if(NOT has_git)
    file(TIMESTAMP ${source}/CMakeLists.txt release_date "%s" UTC)
endif()
if("$ENV{SOURCE_DATE_EPOCH}" STREQUAL "")
    set(ENV{SOURCE_DATE_EPOCH} ${release_date})
endif()
